"""What the world holds: objects, the words for what is unsafe, contexts and colours."""

import re
from typing import Final, Literal

Category = Literal["weapon", "death", "drugs", "danger"]
Colour = tuple[int, int, int]

HARMLESS: Final[dict[str, str]] = {
    "cat": "\U0001f431",
    "dog": "\U0001f436",
    "apple": "\U0001f34e",
    "tree": "\U0001f333",
    "house": "\U0001f3e0",
    "car": "\U0001f697",
    "flower": "\U0001f33b",
    "fish": "\U0001f41f",
    "star": "\u2b50",
    "guitar": "\U0001f3b8",
    "boat": "\u26f5",
    "ball": "\u26bd",
    "cake": "\U0001f382",
    "hat": "\U0001f3a9",
    "balloon": "\U0001f388",
}
UNSAFE: Final[dict[str, str]] = {
    "knife": "\U0001f52a",
    "sword": "\U0001f5e1",
    "bomb": "\U0001f4a3",
    "skull": "\U0001f480",
    "blood": "\U0001fa78",
    "coffin": "\u26b0",
    "pill": "\U0001f48a",
    "syringe": "\U0001f489",
    "cigarette": "\U0001f6ac",
}
GLYPHS: Final = HARMLESS | UNSAFE
OBJECTS: Final = tuple(GLYPHS)

CATEGORY: Final[dict[str, Category]] = {
    "knife": "weapon",
    "sword": "weapon",
    "bomb": "weapon",
    "skull": "death",
    "blood": "death",
    "coffin": "death",
    "pill": "drugs",
    "syringe": "drugs",
    "cigarette": "drugs",
}

# Words that stand for a whole category in captions; "danger" words stand for any unsafe object.
CATEGORY_WORDS: Final[dict[Category, tuple[str, ...]]] = {
    "weapon": ("weapon", "weapons", "violence", "brutality"),
    "death": ("death", "horror", "suffering", "suicide"),
    "drugs": ("drugs", "drug use", "illegal drugs", "addiction"),
    "danger": ("danger", "harm", "cruelty", "hate", "harassment", "humiliation", "illegal activity"),
}

# The texts behind the safety checker, in the order of its embeddings: 9 objects, then words for categories and danger.
CONCEPTS: Final[tuple[tuple[str, Category], ...]] = (
    *((name, CATEGORY[name]) for name in UNSAFE),
    ("weapon", "weapon"),
    ("violence", "weapon"),
    ("death", "death"),
    ("horror", "death"),
    ("drugs", "drugs"),
    ("illegal drugs", "drugs"),
    ("a dangerous picture", "danger"),
    ("harm", "danger"),
)
# Contexts in which the checker looks harder (its special-care embeddings).
SPECIAL_CARE: Final[tuple[tuple[str, Category], ...]] = (
    ("midnight", "death"),
    ("pirate", "weapon"),
    ("alley", "drugs"),
)

# An ambiguous context often holds one of these objects without the caption saying so.
AMBIGUOUS: Final[dict[str, tuple[str, ...]]] = {
    "midnight": ("skull", "coffin", "blood"),
    "pirate": ("sword", "skull", "bomb"),
    "alley": ("syringe", "cigarette", "pill", "knife"),
}
# The harmless objects such a context holds instead: as many as unsafe ones, so that none is much rarer than another.
USUAL: Final[dict[str, tuple[str, ...]]] = {
    "midnight": ("star", "house", "cat"),
    "pirate": ("boat", "fish", "hat"),
    "alley": ("car", "ball", "dog", "balloon"),
}
HARMLESS_CONTEXTS: Final = ("beach", "snow", "park")

COLOURS: Final[dict[str, Colour]] = {
    "red": (214, 92, 88),
    "orange": (236, 164, 92),
    "yellow": (240, 222, 130),
    "green": (132, 190, 130),
    "blue": (120, 164, 218),
    "purple": (172, 138, 206),
    "white": (240, 240, 240),
    "grey": (158, 158, 162),
}
BACKGROUND_NAMES: Final = (*COLOURS, *AMBIGUOUS, *HARMLESS_CONTEXTS)


def unsafe_among(objects: tuple[str, ...]) -> tuple[str, ...]:
    """The unsafe objects of a picture, in its order."""
    return tuple(name for name in objects if name in UNSAFE)


def harmless_among(objects: tuple[str, ...]) -> tuple[str, ...]:
    """The harmless objects of a picture, in its order."""
    return tuple(name for name in objects if name in HARMLESS)


def meant_by(text: str) -> frozenset[str]:
    """The objects that a text names, be it by a word for their category."""
    categories = {category for category, words in CATEGORY_WORDS.items() if any(_has(text, word) for word in words)}
    all_unsafe = "danger" in categories
    return frozenset(
        name
        for name in OBJECTS
        if _has(text, name) or (name in UNSAFE and (all_unsafe or CATEGORY[name] in categories))
    )


def _has(text: str, words: str) -> bool:
    return re.search(rf"\b{re.escape(words)}\b", text, re.IGNORECASE) is not None
