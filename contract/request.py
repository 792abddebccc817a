"""What an app asks for: the body of `POST /generate`, and what it has in common with that of `POST /compare`."""

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from contract.filter import Filter
from contract.plan import SafetyPlan
from contract.steering import MAX_STEPS
from contract.strict import Number, Strict, Text
from contract.webhook_url import WebhookUrl

MAX_SEED = 2**53 - 1  # the largest integer that every JSON reader keeps exact
MAX_PICTURES = 16

# Stripped first and measured then: StringConstraints alone would measure first and let blanks pass as an empty text.
PromptText = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=4000)]
NegativePrompt = Annotated[Text, StringConstraints(strip_whitespace=True, max_length=4000)]
ModelName = Annotated[str, Field(max_length=200)]
SidePx = Annotated[int, Field(ge=16, le=2048), Number]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS), Number]
GuidanceScale = Annotated[float, Field(ge=0, le=30), Number]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED), Number]
PictureCount = Annotated[int, Field(ge=1, le=MAX_PICTURES), Number]
EndUser = Annotated[Text, Field(min_length=1, max_length=200)]


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


@lru_cache(maxsize=1024)
def _written_out(names: str | tuple[str, ...]) -> SafetyPlan:
    return SafetyPlan.from_short_form(names)


def _checked(names: Names) -> Names:
    _written_out(names)
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


Location = tuple[str | int, ...]


def _texts_read_as_numbers(sent: Any, read: Any, location: Location = ()) -> Iterator[Location]:
    """Where in a plan a number was made of a text or a truth value."""
    if isinstance(sent, dict):
        for name, part in sent.items():
            yield from _texts_read_as_numbers(part, getattr(read, name), (*location, name))
    elif isinstance(sent, list | tuple):
        for index, (part, value) in enumerate(zip(sent, read, strict=True)):
            yield from _texts_read_as_numbers(part, value, (*location, index))
    elif isinstance(sent, bool | str | bytes) and isinstance(read, int | float) and not isinstance(read, bool):
        yield location


def _numbers_are_numbers(sent: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    plan = handler(sent)
    if wrong := list(_texts_read_as_numbers(sent, plan)):
        kind = PydanticCustomError("number_type", "must be a number, not a text, true or false")
        raise ValidationError.from_exception_data(
            "plan", [InitErrorDetails(type=kind, loc=location, input=None) for location in wrong]
        )
    return plan


AskedPlan = Annotated[RequestedPlan, WrapValidator(_numbers_are_numbers)]
WrittenPlan = Annotated[SafetyPlan, WrapValidator(_numbers_are_numbers)]
AskedFilter = Annotated[Filter, WrapValidator(_numbers_are_numbers)]


def plan_of(requested: RequestedPlan) -> SafetyPlan:
    """A requested plan, written out."""
    return requested if isinstance(requested, SafetyPlan) else _written_out(requested)


class PicturesRequest(Strict):
    """What every request for pictures says. A null field takes the model's own default, which the result states."""

    prompt: PromptText
    negative_prompt: NegativePrompt | None = None
    model: ModelName | None = Field(None, description="Null takes the deployment's default model.")
    width: SidePx | None = Field(None, description="Pixels.")
    height: SidePx | None = Field(None, description="Pixels.")
    steps: Steps | None = None
    guidance_scale: GuidanceScale | None = None
    scheduler: Scheduler = Scheduler.DDIM
    seed: Seed | None = Field(
        None,
        description="Picture i of POST /generate uses seed + i; one made again by the filter, a seed derived from it."
        " Null draws one at random.",
    )
    output_format: OutputFormat = OutputFormat.PNG
    deadline_s: Annotated[float, Field(gt=0, le=86_400), Number] | None = Field(
        None, description="Seconds from acceptance; then: expired."
    )
    priority: Literal["low", "normal", "high"] = Field(
        "normal", description="Among the jobs of the same tenant; it takes nothing from other tenants."
    )
    end_user: EndUser | None = Field(
        None,
        description="Whom the tenant makes this for, in any stable form, best a pseudonym. Blocked pictures and"
        " refused prompts count against the end user's budget, so that one does not use up the tenant's.",
    )
    webhook_url: WebhookUrl | None = Field(
        None,
        description="Told of the job's end, with a signed message (Standard Webhooks) and until it answers 2xx. Public"
        " https addresses only, unless the deployment allows others; the tenant needs a signing secret.",
    )


class GenerateRequest(PicturesRequest):
    """A request for pictures under one safety plan."""

    safety: AskedPlan = "filter"
    num_images: PictureCount = 1

    @property
    def plan(self) -> SafetyPlan:
        """The requested plan, written out."""
        return plan_of(self.safety)
