"""`POST /v1/moderations` in OpenAI's words: its request, its categories, its answer.

OpenAI's thirteen categories are told for its clients' sake; only those that something here looks for can be true.
Concepts of other categories count in `flagged`, and stand with every score in `concepts`.
"""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, Field, model_validator

from contract.moderation import (
    MAX_TEXTS,
    Encoded,
    ModeratedPicture,
    ModeratedText,
    ModerateRequest,
    Moderation,
    ScreenedText,
)
from contract.request import MAX_PICTURES
from contract.strict import Strict
from contract.verdict import ConceptScore, Verdict

CATEGORIES: Final = (
    "harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent", "self-harm",
    "self-harm/instructions", "self-harm/intent", "sexual", "sexual/minors", "violence", "violence/graphic",
)  # fmt: skip
OWN: Final = {"minor": "sexual/minors", "weapon": "violence", "death": "violence/graphic", "drugs": "illicit"}
OPENAIS_MODELS: Final = ("omni-moderation", "text-moderation")  # names that its clients send of themselves


class TextInput(Strict):
    """A text among others."""

    type: Literal["text"]
    text: ScreenedText


class ImageUrl(Strict):
    """Where a picture is: in the address itself."""

    url: Encoded


class ImageInput(Strict):
    """A picture, as a data: URL."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextInput | ImageInput, Field(discriminator="type")]


class ModerationsRequest(Strict):
    """What OpenAI's clients send: a text, texts, or parts of one message."""

    input: (
        ScreenedText
        | Annotated[tuple[ScreenedText, ...], Field(min_length=1, max_length=MAX_TEXTS)]
        | Annotated[tuple[Part, ...], Field(min_length=1, max_length=MAX_TEXTS)]
    )
    model: Annotated[str, Field(max_length=200)] | None = Field(
        None, description="A name of GET /models. Null, or a name of OpenAI's own: the deployment's default."
    )

    @model_validator(mode="after")
    def _holds_no_more_pictures_than_may_be(self) -> Self:
        if len(self.pictures) > MAX_PICTURES:
            raise ValueError(f"has {len(self.pictures)} pictures of at most {MAX_PICTURES}; send the others apart")
        return self

    @property
    def pictures(self) -> tuple[str, ...]:
        """Every picture, as it was sent."""
        parts = () if isinstance(self.input, str) else self.input
        return tuple(part.image_url.url for part in parts if isinstance(part, ImageInput))

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text."""
        if isinstance(self.input, str):
            return (self.input,)
        texts = (part if isinstance(part, str) else getattr(part, "text", None) for part in self.input)
        return tuple(text for text in texts if text is not None)

    @property
    def is_one_message(self) -> bool:
        """Whether its parts belong together, and get one result."""
        return not isinstance(self.input, str) and any(not isinstance(part, str) for part in self.input)

    @property
    def wanted(self) -> ModerateRequest:
        """The request of ours that this one stands for."""
        own = None if self.model is None or self.model.startswith(OPENAIS_MODELS) else self.model
        return ModerateRequest(images=self.pictures, texts=self.texts, model=own)

    def place_of(self, field: str) -> str:
        """Where a field of `wanted` stands here: "images.0" may be "input.2"."""
        kind, _, number = field.partition(".")
        if kind not in ("images", "texts"):
            return field
        parts = () if isinstance(self.input, str) else self.input
        places = [at for at, part in enumerate(parts) if isinstance(part, ImageInput) == (kind == "images")]
        return f"input.{places[int(number)]}" if number and places else "input"


InputType = Literal["text", "image"]


class ModerationResult(BaseModel):
    """The verdict on a text, or on the parts of one message together."""

    flagged: bool = Field(description="Whether anything did not pass.")
    categories: dict[str, bool] = Field(description="OpenAI's; true for what was found.")
    category_scores: dict[str, float] = Field(
        description="The detectors' own scores, 0 to 1: of each category the one furthest over its threshold. A cosine"
        " of 0.2 may be far over; `concepts` has the thresholds."
    )
    category_applied_input_types: dict[str, list[InputType]] = Field(description="Where each category is looked for.")
    concepts: tuple[ConceptScore, ...] = Field(
        description="Every score of every picture and text, as of `POST /moderate`."
    )
    reasons: tuple[str, ...] = Field(description="Why something did not pass.")


class ModerationsAnswer(BaseModel):
    """A result for each text, or one for the parts of a message."""

    id: str
    model: str
    results: list[ModerationResult]


def answer_of(request: ModerationsRequest, moderation: Moderation, request_id: str) -> ModerationsAnswer:
    """The verdicts in OpenAI's words."""
    if request.is_one_message:
        results = [_result(moderation.images, moderation.texts)]
    else:
        results = [_result((), (text,)) for text in moderation.texts]
    return ModerationsAnswer(id=f"modr-{moderation.id or request_id}", model=moderation.model, results=results)


def category_of(name: str) -> str | None:
    """OpenAI's category for one of ours, or for a block-list or a prompt's concept of that name, if it has one."""
    return name if name in CATEGORIES else OWN.get(name)


def _looked_for_in(is_read: bool, is_looked_at: bool) -> list[InputType]:
    places: list[tuple[InputType, bool]] = [("text", is_read), ("image", is_looked_at)]
    return [place for place, is_looked_in in places if is_looked_in]


def _result(pictures: Sequence[ModeratedPicture], texts: Sequence[ModeratedText]) -> ModerationResult:
    of_pictures = [(category_of(score.category), score) for picture in pictures for score in picture.concepts]
    of_texts = [(category_of(score.name), score) for text in texts for score in text.concepts]
    nearest: dict[str, ConceptScore] = {}
    for category, score in (*of_pictures, *of_texts):
        if category is not None and (category not in nearest or score.margin > nearest[category].margin):
            nearest[category] = score
    listed = {category_of(name) for text in texts for name in text.lists}
    read, looked_at = listed | {category for category, _ in of_texts}, {category for category, _ in of_pictures}
    judged: list[ModeratedPicture | ModeratedText] = [*pictures, *texts]
    return ModerationResult(
        flagged=any(one.verdict is not Verdict.PASSED for one in judged),
        categories={name: name in listed or (name in nearest and nearest[name].margin > 0) for name in CATEGORIES},
        category_scores={
            name: max(float(name in listed), min(1.0, nearest[name].score) if name in nearest else 0.0)
            for name in CATEGORIES
        },
        category_applied_input_types={name: _looked_for_in(name in read, name in looked_at) for name in CATEGORIES},
        concepts=tuple(score for _, score in (*of_pictures, *of_texts)),
        reasons=tuple(dict.fromkeys(reason for one in judged for reason in one.reasons)),
    )
