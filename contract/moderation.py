"""What is asked of `POST /moderate`, and what it answers: verdicts on pictures and texts that are there already."""

import base64
import binascii
import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, StringConstraints, field_validator, model_validator

from contract.filter import Action, Filter
from contract.job import PolicyRef
from contract.prompt_concepts import PromptScore
from contract.request import MAX_PICTURES, AskedFilter, ModelName
from contract.result import Decided, JobError
from contract.strict import Strict, Text
from contract.verdict import ConceptScore, Verdict
from contract.webhook_url import WebhookUrl

MAX_TEXTS: Final = 64
MAX_TEXT_CHARACTERS: Final = 100_000  # of all together: they are read while others wait
_DATA_URL: Final = re.compile(r"data:[a-z0-9.+/-]*(;[a-z0-9=-]+)*;base64,", re.IGNORECASE)

ScreenedText = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=20_000)]


def bytes_of(encoded: str) -> bytes:
    """What a data: URL, or base64 alone, stands for.

    Raises:
        ValueError: neither; what to send is told.
    """
    found = _DATA_URL.match(encoded)
    if found is None and ":" in encoded[:40]:
        raise ValueError("is no data: URL with ;base64; addresses of pictures are not fetched: send the bytes")
    try:
        return base64.b64decode(encoded[found.end() if found else 0 :], validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("does not read as base64") from None


def _checked(encoded: str) -> str:
    bytes_of(encoded)
    return encoded


Encoded = Annotated[
    str,
    Field(min_length=1, description="A data: URL, or base64 alone, of a PNG, JPEG or WebP file."),
    AfterValidator(_checked),
]


class ModerateRequest(Strict):
    """Pictures and texts to be judged, at least one of either."""

    images: tuple[Encoded, ...] = Field((), max_length=MAX_PICTURES)
    texts: tuple[ScreenedText, ...] = Field(
        (),
        max_length=MAX_TEXTS,
        description=f"Screened by the prompt rules of the policy in force. At most {MAX_TEXT_CHARACTERS} characters in"
        " all.",
    )
    model: ModelName | None = Field(None, description="Whose workers judge; null: the deployment's default.")
    output: AskedFilter = Field(Filter(), description="The filter, as in a safety plan; the policy may be stricter.")
    webhook_url: WebhookUrl | None = Field(
        None, description="Told when the pictures are judged, and whenever a person has decided on one of them."
    )

    @field_validator("output")
    @classmethod
    def _makes_nothing_again(cls, output: Filter) -> Filter:
        if Action.REGENERATE in output.actions:
            raise ValueError("'regenerate' makes pictures, and these are there already; take 'block' or 'review'")
        return output

    @field_validator("texts")
    @classmethod
    def _are_few_enough(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        if (total := sum(map(len, texts))) > MAX_TEXT_CHARACTERS:
            raise ValueError(f"have {total} of at most {MAX_TEXT_CHARACTERS} characters together; send some apart")
        return texts

    @model_validator(mode="after")
    def _has_something(self) -> Self:
        if not self.images and not self.texts:
            raise ValueError("send images, texts or both")
        if self.webhook_url is not None and not self.images:
            raise ValueError("texts are judged with the answer, so there is nothing to tell webhook_url; leave it out")
        return self


class VerifyRequest(Strict):
    """Pictures whose origin is asked for."""

    images: Annotated[tuple[Encoded, ...], Field(min_length=1, max_length=MAX_PICTURES)]


class ModeratedPicture(Strict):
    """The verdict on one upload and the evidence behind it. Its bytes are kept for a person only, if at all."""

    index: int
    verdict: Verdict
    action: Action | None = Field(description="The strictest action of the concepts found; null: none found.")
    sha256: str = Field(description="Of the file as it was sent.")
    width: int
    height: int
    concepts: tuple[ConceptScore, ...]
    reasons: tuple[str, ...]
    review_id: str | None = Field(
        None,
        description="It is before a person, under this id; `GET /moderate/{id}` and the webhook tell the decision.",
    )
    decided: Decided | None = Field(None, description="A person's decision, which stands in the verdict; null: none.")
    error: JobError | None = Field(description="Why it could not be judged; it must then not be taken as passed.")


class ModeratedText(Strict):
    """The verdict on one text. Without prompt rules in the policy, every text passes."""

    index: int
    verdict: Verdict
    lists: tuple[str, ...] = Field(description="The policy's block-lists of which a word was found.")
    concepts: tuple[PromptScore, ...] = Field(description="What the policy's prompt rules look for, with every score.")
    reasons: tuple[str, ...]


class Moderation(Strict):
    """Verdicts on everything that was sent."""

    id: str | None = Field(
        description="Of the job that judged the pictures, for `GET /moderate/{id}`; null without any."
    )
    model: str
    policy: PolicyRef
    flagged: bool = Field(description="Whether anything did not pass.")
    images: tuple[ModeratedPicture, ...]
    texts: tuple[ModeratedText, ...]
