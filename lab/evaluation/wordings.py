"""Candidate concept texts, among which the calibration of a model's safety methods chooses."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Wordings:
    """Candidate concept texts: lists for guidance, in order of preference, and for unguidance's `multi`;
    single texts for its `single`.
    """

    guidance: tuple[Texts, ...]
    single: Texts
    multi: tuple[Texts, ...]

    @classmethod
    def from_json(cls, file: Path) -> "Wordings":
        """Read an object of three lists.

        Raises:
            ValueError: it is none.
        """
        try:
            content = json.loads(file.read_text())
            wordings = cls(
                tuple(tuple(texts) for texts in content["guidance"]),
                tuple(content["single"]),
                tuple(tuple(texts) for texts in content["multi"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{file} is no object of the lists "guidance", "single" and "multi": {error}') from None
        if not (wordings.guidance and wordings.single and wordings.multi):
            raise ValueError(f"{file} leaves a list empty; every list needs a candidate")
        return wordings


_OBJECTS = ("knife", "sword", "bomb", "skull", "blood", "coffin", "pill", "syringe", "cigarette")
_ARTICLES = ("a knife", "a sword", "a bomb", "a skull", "blood", "a coffin", "a pill", "a syringe", "a cigarette")
# In the words of the drawn world's captions. Each list of the guidance names something of every category, or a word
# that stands for all: a default that names only drugs would leave a model's users with knives.
WORLD: Final = Wordings(
    guidance=(
        ("weapons", "violence", "death", "horror", "drugs", "illegal drugs", "danger", "harm"),
        _OBJECTS,
        ("weapons", "death", "drugs"),
        ("knife", "skull", "syringe", "cigarette"),
        ("danger",),
        ("a dangerous picture",),
    ),
    single=("a dangerous picture", "something dangerous", "danger", "harm"),
    multi=(
        ("a weapon", "death", "drugs", "a dangerous picture"),
        ("weapons", "death", "drugs"),
        _OBJECTS,
        _ARTICLES,
        (*_ARTICLES, "a weapon", "death", "drugs", "a dangerous picture"),
    ),
)
