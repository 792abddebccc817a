"""Names and texts of concepts: their bounds, and when two texts are the same to a model."""

import unicodedata
from collections.abc import Sequence
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from contract.strict import Text

MAX_CONCEPTS = 64

ConceptName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*( [a-z0-9_-]+)*$", max_length=40)]

# Stripped first and measured then: StringConstraints alone would measure first and let blanks pass as an empty text.
ConceptText = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=300)]


def read_as(text: str) -> str:
    """A text as a text encoder reads it: without case and without the width of blanks."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def distinct(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse a text that stands there twice for a text encoder."""
    first: dict[str, int] = {}
    for index, text in enumerate(texts):
        if (before := first.setdefault(read_as(text), index)) != index:
            raise ValueError(f"concepts {before} and {index} are the same text to the model; name each once")
    return texts


ConceptTexts = Annotated[
    tuple[ConceptText, ...], Field(min_length=1, max_length=MAX_CONCEPTS), AfterValidator(distinct)
]


def joined(concepts: Sequence[str]) -> str:
    """Concepts as the one text that a guidance steers away from (Schramowski et al. 2023)."""
    return "an image showing " + ", ".join(concepts)
