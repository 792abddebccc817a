"""What a policy says about prompts: words and phrases that none may hold, and concepts that none may come near.

Words are found in the folded text (`contract.folding`), whole and in full: a word within another is not found, and no
token limit cuts the text. Beyond that, letters that stand apart (`k n i f e`, `k.n.i.f.e`) are read together, and a
policy may say which characters stand for which letters (`"0": "o"`); what has no letter left then is a number, which is
found where that very number is listed.

Concepts are given as text, and scored by a worker on the same folded text (`readings`; `contract.prompt_concepts`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints

from contract.concept_text import MAX_CONCEPTS, ConceptName, ConceptText
from contract.filter import Action
from contract.folding import EITHER, fold
from contract.strict import Number, Strict, Text

MAX_WORDS = 2000
_BETWEEN = r"[\W_]+"  # the words of a phrase
_APART = re.compile(r"(?<![^\W_])[^\W_](?:[\W_]{1,8}[^\W_](?![^\W_])){2,}")


def _has_letters(text: str) -> str:
    if not re.search(r"\w", fold(text)):
        raise ValueError("holds no letter or digit; write a word or a phrase")
    return text


Phrase = Annotated[
    Text, AfterValidator(_has_letters), StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=100)
]


def _characters_for_letters(table: dict[str, str]) -> dict[str, str]:
    for char, letters in table.items():
        if not re.fullmatch(r"[!-@\[-`{-~]", char) or not re.fullmatch(r"[a-z]{1,3}", letters):
            raise ValueError('takes digits or signs of ASCII for up to three small letters, as in {"1": "il"}')
    return table


class BlockList(Strict):
    """Words and phrases that no prompt may hold. A refusal tells the list's name, not the word."""

    name: ConceptName
    words: Annotated[tuple[Phrase, ...], Field(min_length=1, max_length=MAX_WORDS)]


class PromptConcept(Strict):
    """A concept given as text: found when the cosine of the prompt and the text is over the threshold."""

    name: ConceptName
    text: ConceptText
    threshold: Annotated[float, Field(ge=-1, le=1), Number]
    action: Literal[Action.ANNOTATE, Action.REVIEW, Action.BLOCK] = Field(
        Action.BLOCK,
        description="`block` makes nothing, `review` holds every picture made, `annotate` tells the scores alone.",
    )


def _have_own_names(concepts: tuple[PromptConcept, ...]) -> tuple[PromptConcept, ...]:
    names = [concept.name for concept in concepts]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"concept names must be unique; repeated: {', '.join(repeated)}")
    return concepts


class PromptRules(Strict):
    """What no prompt may hold, whatever else is asked for."""

    lists: Annotated[tuple[BlockList, ...], Field(max_length=32)] = ()
    leetspeak: Annotated[dict[str, str], AfterValidator(_characters_for_letters)] = Field(
        {}, max_length=32, description='Characters that may stand for letters, as in {"0": "o", "1": "il"}.'
    )

    concepts: Annotated[tuple[PromptConcept, ...], Field(max_length=MAX_CONCEPTS), AfterValidator(_have_own_names)] = (
        Field((), description="Concepts that workers score prompts for, with the model's CLIP text tower.")
    )

    def found_in(self, text: str) -> tuple[str, ...]:
        """The names of the lists of which a word stands in a text."""
        if not self.lists:
            return ()
        folded = fold(text)
        spelled = list(map(_closed_up, _APART.findall(folded)))
        return tuple(one.name for one, look in zip(self.lists, self.looks, strict=True) if look.finds(folded, spelled))

    @cached_property
    def looks(self) -> "tuple[Look, ...]":
        """For each list what finds its words; a list of 2,000 takes up to a second to be made ready."""
        return tuple(Look.of(one.words, self.leetspeak) for one in self.lists)


@dataclass(frozen=True)
class Look:
    """What finds the words of one list."""

    whole: "re.Pattern[str]"
    within: "re.Pattern[str]"  # letters that stood apart, where no word begins or ends
    numbers: frozenset[str]  # the words without a letter

    @classmethod
    def of(cls, words: tuple[str, ...], leetspeak: Mapping[str, str]) -> Self:
        """For these words."""
        pattern = _any_of(_alternatives(words, leetspeak))
        numbers = (word for word in map(_closed_up, map(_as_written, words)) if not _has_letter(word))
        return cls(re.compile(rf"(?<![^\W_]){pattern}(?![^\W_])"), re.compile(pattern), frozenset(numbers))

    def finds(self, folded: str, spelled: Iterable[str]) -> bool:
        """Whether a word stands in a folded text, or is spelled there."""
        whole = any(_has_letter(hit) or _closed_up(hit) in self.numbers for hit in _hits(self.whole, folded))
        return whole or any(run in self.numbers or any(map(_has_letter, _hits(self.within, run))) for run in spelled)


def readings(text: str) -> tuple[str, ...]:
    """A text as a reader may take it: folded, what is both i and l as either, letters that stand apart as they are and
    read together."""
    folded = fold(text)
    together = _APART.sub(lambda run: _closed_up(run[0]), folded)
    return tuple(dict.fromkeys(each.replace(EITHER, letter) for each in (folded, together) for letter in "il"))


def _closed_up(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))


def _hits(pattern: "re.Pattern[str]", text: str) -> Iterator[str]:
    at = 0
    while hit := pattern.search(text, at):
        yield hit[0]
        at = hit.start() + 1


def _any_of(words: Iterable[Sequence[str]]) -> str:
    """A pattern for any of these words, each a sequence of patterns. What words begin with is written once, so that
    the time that it takes does not grow with their number; the longest is tried first."""
    rests: dict[str, list[Sequence[str]]] = {}
    is_end = False
    for word in words:
        if word:
            rests.setdefault(word[0], []).append(word[1:])
        else:
            is_end = True
    branches = [first + _any_of(rest) for first, rest in rests.items()]
    if len(branches) == 1 and not is_end:
        return branches[0]
    return f"(?:{'|'.join(branches)}){'?' if is_end else ''}" if branches else ""


def _alternatives(words: tuple[str, ...], leetspeak: Mapping[str, str]) -> Iterator[Sequence[str]]:
    standing_for: dict[str, str] = {"i": EITHER, "l": EITHER}
    for char, letters in sorted(leetspeak.items()):
        for letter in letters:
            standing_for[letter] = standing_for.get(letter, "") + char
    for word in words:
        parts = re.findall(r"[^\W_]+", _as_written(word))
        yield [
            place
            for number, part in enumerate(parts)
            for place in ([_BETWEEN] if number else []) + [_class(char, standing_for) for char in part]
        ]


def _as_written(word: str) -> str:
    """A listed word means its letters: a capital I in it is an i."""
    return fold(word.casefold()).replace(EITHER, "l")


def _class(char: str, standing_for: dict[str, str]) -> str:
    others = standing_for.get(char, "")
    return f"[{re.escape(char + others)}]" if others else re.escape(char)
