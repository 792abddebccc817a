"""Texts as a reader takes them: characters that look alike, or that cannot be seen, make no difference.

    NFKD · marks, format characters and other invisible ones dropped · confusables to ASCII · case folded

Confusables are those of Unicode's own list (UTS 39), as `confusable_homoglyphs` carries it; letters that the list has
not, such as ł, ʙ or 🅺, are known by their names. What looks like a capital I or a small l stands as EITHER: it is both.
"""

import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache

from confusable_homoglyphs.confusables import confusables_data

EITHER = "\ua7fe"  # i or l: a letter, the Latin epigraphic I longa

_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0")  # default ignorable, though of no such category
_BLANK = frozenset("\u2800")
_DROPPED = frozenset({"Mn", "Me", "Cf", "Cs", "Co"})
_NAME = re.compile(
    r"(?:(?:CROSSED |RAISED )?NEGATIVE (?:SQUARED|CIRCLED) )?"
    r"LATIN (?:CAPITAL|SMALL|LETTER SMALL CAPITAL)(?: LETTER)?(?: [A-Z]+)? ([A-Z])(?: WITH .*)?"
    r"|REGIONAL INDICATOR SYMBOL LETTER ([A-Z])"
)


def fold(text: str) -> str:
    """The text, folded. What was written in another script and looks like no Latin letter stays as it is."""
    return "".join(map(_folded, text))


@lru_cache(16_384)
def _folded(char: str) -> str:
    if char in "I|":
        return EITHER
    if (cased := char.casefold()).isascii():
        return cased
    # before it is decomposed: some letters that look Latin are compatible with others that do not
    return _latin(_alike(char)) or "".join(map(_part, unicodedata.normalize("NFKD", char)))


def _part(char: str) -> str:
    if char in _BLANK:
        return " "
    if char in _INVISIBLE or unicodedata.category(char) in _DROPPED:
        return ""
    if char.isascii():
        return char.casefold()
    # The list goes in steps where a letter has looks of its own: κ is like ĸ, and that like ᴋ.
    return _one_step(char) or _latin(map(_one_step, _alike(char))) or char.casefold()


def _one_step(char: str) -> str:
    """The ASCII letter that a character, or one that looks like it, is by the list or by its name; empty: none."""
    return _latin(_alike(char)) or _named(char) or _latin(map(_named, _alike(char)))


def _alike(char: str) -> list[str]:
    return [each["c"] for each in confusables_data.get(char, ()) if len(each["c"]) == 1]


def _latin(alike: Iterable[str]) -> str:
    """The ASCII letter among what looks alike; EITHER where i and l do."""
    letters = {each for each in alike if each.isascii() and each.isalpha()}
    if letters & {"l", "I"}:
        return EITHER if letters <= {"l", "I"} else min(letters - {"l", "I"}).casefold()
    return min((each.casefold() for each in letters), default="")


def _named(char: str) -> str:
    found = _NAME.fullmatch(unicodedata.name(char, ""))
    return (found[1] or found[2]).casefold() if found else ""
