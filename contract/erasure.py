"""Erasures: weights made by a lab's worker as a job, from the request to what became of it."""

from typing import Annotated

from pydantic import AwareDatetime, Field

from contract import keys
from contract.gate import Assessment, Gate
from contract.job import AnyJob
from contract.model import ErasureEffect
from contract.recipe import TaggedRecipe, Uce
from contract.request import ModelName
from contract.result import Ended, JobError, Status
from contract.steering import VariantName
from contract.strict import Number, Strict
from contract.webhook_url import WebhookUrl


class Lab(Strict):
    """What a lab's worker announces: of which model it makes variants."""

    model: str
    weights_sha256: str


class ErasureRequest(Strict):
    """New erased weights: from which model, what they are called, how they are made and what they are held against."""

    model: ModelName | None = Field(None, description="Null takes the deployment's default model.")
    name: VariantName = Field(description="Of the new variant; requests say `erased:NAME` once it is promoted.")
    recipe: TaggedRecipe
    gate: Gate = Gate()
    prompts: Annotated[int, Field(ge=1, le=500), Number] = Field(
        100, description="Of the ambiguous and of the benign set each, to measure on before and after."
    )
    webhook_url: WebhookUrl | None = Field(None, description="Told of the job's end, as for pictures.")


class ErasureJob(AnyJob):
    """Everything a lab's worker needs."""

    kind = keys.ERASURES
    most_attempts = 10  # a training outlives its workers: what one leaves off, the next goes on with

    name: VariantName
    base_sha256: str = Field(description="Of the model's weights when the job was accepted.")
    recipe: TaggedRecipe
    gate: Gate
    prompts: int

    @property
    def queue(self) -> str:
        """The lab's own: a training of hours must hold up no picture."""
        return keys.lab_queue_name(self.model)

    @property
    def function(self) -> str:
        """What its worker's table calls it."""
        return keys.ERASE

    @property
    def cost(self) -> int:
        """Iterations."""
        return 1 if isinstance(self.recipe, Uce) else self.recipe.iterations


class Made(Strict):
    """Weights that an erasure made. They are a candidate, whatever their gate says, until somebody promotes them."""

    weights_sha256: str
    changes: str = Field(description="kv_only, attn2_only or full.")
    tensors: int = Field(description="How many differ from the base's.")
    effects: tuple[ErasureEffect, ...]
    gate: Assessment


class ErasureResult(Ended):
    """How an erasure ended."""

    made: Made | None = None


class ErasureView(Strict):
    """An erasure as told over HTTP."""

    id: str
    status: Status
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    model: str
    name: VariantName
    recipe: TaggedRecipe = Field(description="With every setting, those that were left out at their published values.")
    attempt: int = Field(description="How often a worker has begun; each goes on from the checkpoint before it.")
    made: Made | None = Field(None, description="Set when the status is succeeded, also when the gate was not passed.")
    error: JobError | None = Field(None, description="Set when the status is failed.")


class ErasurePage(Strict):
    """Some of a tenant's erasures, newest first."""

    erasures: tuple[ErasureView, ...]
    next_cursor: str | None = Field(description="Where the next page begins; null: there is none.")
