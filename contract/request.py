"""What an app asks for: the body of `POST /generate`."""

from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationInfo,
    field_validator,
)

from contract.plan import MAX_STEPS, SafetyPlan
from contract.strict import Strict, Text

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
MAX_PICTURES = 16

# Stripped first and measured then: StringConstraints alone would measure first and let blanks pass as an empty text.
PromptText = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=4000)]


class Scheduler(StrEnum):
    """Samplers, by the field's usual names."""

    DDIM = "ddim"
    EULER = "euler"
    DPMPP_2M = "dpm++2m"


class OutputFormat(StrEnum):
    """Encodings of a picture; the value is the file's ending."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


def _form_of(value: Any) -> str | None:
    """Which of the three ways to write a plan this is; None is refused by pydantic with the list of them."""
    if isinstance(value, str):
        return "name"
    if isinstance(value, list | tuple):
        return "names"
    return "plan" if isinstance(value, dict | SafetyPlan) else None


Names = TypeVar("Names", str, tuple[str, ...])


def _checked(names: Names) -> Names:
    SafetyPlan.from_short_form(names)
    return names


RequestedPlan = Annotated[
    Annotated[str, Field(max_length=100, examples=["filter", "none"]), AfterValidator(_checked), Tag("name")]
    | Annotated[
        tuple[Annotated[str, Field(max_length=100)], ...],
        Field(min_length=1, max_length=5, examples=[["sld:strong", "filter"]]),
        AfterValidator(_checked),
        Tag("names"),
    ]
    | Annotated[SafetyPlan, Tag("plan")],
    Discriminator(
        _form_of,
        custom_error_type="plan_form",
        custom_error_message="a safety plan is a name, a list of names, or an object with places",
    ),
]


class GenerateRequest(Strict):
    """A request for pictures. A null field takes the model's own default, which the result states."""

    prompt: PromptText
    negative_prompt: Annotated[Text, StringConstraints(strip_whitespace=True, max_length=4000)] | None = None
    model: str | None = Field(None, max_length=200, description="Null takes the deployment's default model.")
    safety: RequestedPlan = "filter"
    num_images: int = Field(1, ge=1, le=MAX_PICTURES)
    width: int | None = Field(None, ge=16, le=2048, description="Pixels.")
    height: int | None = Field(None, ge=16, le=2048, description="Pixels.")
    steps: int | None = Field(None, ge=1, le=MAX_STEPS)
    guidance_scale: float | None = Field(None, ge=0, le=30)
    scheduler: Scheduler = Scheduler.DDIM
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="Picture i uses seed + i. Null draws one at random.")
    output_format: OutputFormat = OutputFormat.PNG
    webhook_url: str | None = Field(None, max_length=2048)
    end_user: str | None = Field(None, max_length=200)
    priority: Literal["low", "normal", "high"] = "normal"
    deadline_s: float | None = Field(None, gt=0, le=86_400, description="Seconds from acceptance; then: expired.")

    @field_validator("webhook_url", "end_user", "priority")
    @classmethod
    def _is_served(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value not in (None, "normal"):
            raise ValueError(f"{info.field_name!r} is not served by this version; leave it out")
        return value

    @property
    def plan(self) -> SafetyPlan:
        """The requested plan, written out."""
        return self.safety if isinstance(self.safety, SafetyPlan) else SafetyPlan.from_short_form(self.safety)
