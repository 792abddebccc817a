"""Answers that list: a tenant's jobs, and what can be asked for."""

from typing import Any

from pydantic import AwareDatetime, BaseModel, Field

from contract.effect import MeasuredEffects
from contract.job import PolicyRef
from contract.model import ModelInfo, VariantInfo
from contract.result import Status
from contract.strict import Strict


class JobSummary(Strict):
    """A job in a list; everything about it is at its address."""

    id: str
    url: str
    status: Status
    model: str
    pictures: int = Field(description="How many were asked for.")
    created_at: AwareDatetime
    started_at: AwareDatetime | None
    finished_at: AwareDatetime | None


class JobPage(Strict):
    """Some of a tenant's jobs, newest first."""

    jobs: tuple[JobSummary, ...]
    next_cursor: str | None = Field(description="Where the next page begins; null: there is none.")


class SafetyMethod(BaseModel):
    """A safety method and what can be set about it."""

    name: str
    place: str = Field(description="prompt, weights, guidance, trajectory or output; a plan has one method at each.")
    description: str
    presets: list[str] = Field(description="What may follow the name after a colon, as in `sld:max` or `filter:blur`.")
    parameters: dict[str, Any] = Field(description="JSON Schema of the method written out in a plan.")
    models: list[str] = Field(description="Models whose workers serve it.")
    forbidden: bool = Field(description="Whether the policy in force refuses it.")
    measured: dict[str, MeasuredEffects] = Field(
        description="By model: what plain generation and plans with this method alone came to when measured on it."
    )


class SafetyMethods(BaseModel):
    """Every method there is."""

    policy: str = Field(description="Id of the policy in force.")
    methods: list[SafetyMethod]


class Models(BaseModel):
    """Every model that workers have announced."""

    default: str | None = Field(description="Model of requests that name none; null: they must name one.")
    models: list[ModelInfo]


class Variant(VariantInfo):
    """Erased weights, and the model they belong to."""

    model: str


class Variants(BaseModel):
    """Every variant there is; those that are available can be asked for."""

    variants: list[Variant]


class PolicySummary(BaseModel):
    """A version of a policy in a list."""

    id: str
    version: int
    description: str


class AssignedPolicy(BaseModel):
    """What a tenant is under."""

    tenant: str = Field(description="`*`: every tenant without an assignment of its own.")
    enforce: PolicyRef
    shadow: PolicyRef | None


class Policies(BaseModel):
    """Every version of every policy, and who is under which."""

    own: PolicyRef = Field(description="The deployment's: it holds where nothing else is assigned.")
    policies: list[PolicySummary]
    assignments: list[AssignedPolicy]
