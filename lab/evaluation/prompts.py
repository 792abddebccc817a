"""What pictures are asked for: the drawn world's prompts in two splits, a file, or a template.

Calibrating hears the captions that call themselves a picture ("a picture of midnight", "a photo of a cat"), measuring
hears the others ("midnight", "a cat on the beach"): no text is in both splits, and neither is a seed.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count as count_up
from itertools import cycle, islice
from pathlib import Path
from typing import Final

from lab.evaluation.countries import COUNTRY, texts_of
from lab.world.captions import BARE, caption, with_article
from lab.world.objects import AMBIGUOUS, CATEGORY, HARMLESS, UNSAFE
from lab.world.scenes import generator, random_scene
from seemly.prompts import Prompt, UnusablePrompts, read_prompts

CALIBRATION_WORDS: Final = ("a picture of", "a photo of", "an image showing")
AMBIGUOUS_SEED, BENIGN_SEED, EXPLICIT_SEED, FILE_SEED = 9_410_000, 9_420_000, 9_430_000, 9_440_000
EXPLICIT_WEAPONS_SEED, TEMPLATE_SEED = 9_450_000, 9_460_000
AMBIGUOUS_CALIBRATION_SEED, BENIGN_CALIBRATION_SEED = 9_510_000, 9_520_000
WORLD_COUNT: Final = 200
WEAPONS: Final = tuple(name for name in UNSAFE if CATEGORY[name] == "weapon")


@dataclass(frozen=True, slots=True)
class Case:
    """One picture that every plan has to make: the prompt, the objects it names, its seed."""

    prompts: str  # the set it belongs to
    index: int
    text: str
    named: tuple[str, ...]
    seed: int
    negative_prompt: str = ""
    categories: str | None = None  # of what its pictures may show, as I2P names it
    guidance_scale: float | None = None  # None: the run's
    width: int | None = None  # pixels; None: the model's own size
    height: int | None = None


def load(source: str, limit: int | None = None) -> list[Case]:
    """The cases of a set in `SETS`, of a file as `seemly.prompts` reads it, or of a <country> text; at most `limit`.

    Raises:
        UnusablePrompts: none of these, nothing in it, or rows that cannot be used.
    """
    if source in SETS:
        texts, seed = SETS[source]
        prompts = islice(texts(), limit if limit is not None else WORLD_COUNT)
        return [Case(source, index, text, named, seed + index) for index, (text, named) in enumerate(prompts)]
    rows: Sequence[Prompt]
    if COUNTRY in source:
        name, seed = source.replace(COUNTRY, "country").strip(), TEMPLATE_SEED
        rows = [Prompt(number, text) for number, text in enumerate(texts_of(source), start=1)]
    elif _is_file(source):
        name, seed, rows = Path(source).stem, FILE_SEED, read_prompts(Path(source))
    else:
        raise UnusablePrompts(
            f"{source!r} is neither a file, nor a text with {COUNTRY} in it, nor one of the sets {', '.join(SETS)}"
        )
    return [_case(name, index, row, seed) for index, row in enumerate(rows[:limit])]


def _is_file(source: str) -> bool:
    try:
        return Path(source).is_file()
    except OSError:  # longer than a name can be
        return False


def _case(name: str, index: int, row: Prompt, first_seed: int) -> Case:
    return Case(
        prompts=name,
        index=index,
        text=row.text,
        named=(),
        seed=first_seed + index if row.seed is None else row.seed,
        negative_prompt=row.negative_prompt or "",
        categories=row.categories,
        guidance_scale=row.guidance_scale,
        width=row.width,
        height=row.height,
    )


Prompts = Iterator[tuple[str, tuple[str, ...]]]


def _ambiguous(is_wanted: Callable[[str], bool]) -> Prompts:
    """Bare contexts in turn: they name nothing, yet often give something unsafe."""
    wordings = {context: cycle(filter(is_wanted, BARE[context])) for context in AMBIGUOUS}
    for context in cycle(AMBIGUOUS):
        yield next(wordings[context]), ()


def _benign(is_wanted: Callable[[str], bool], seed: int) -> Prompts:
    """Captions of harmless scenes outside the ambiguous contexts, drawn as for training."""
    for index in count_up():
        rng = generator(seed, index)
        scene = random_scene(rng)
        if scene.is_ambiguous or scene.is_unsafe or not scene.objects:
            continue
        text = caption(scene, rng)
        if is_wanted(text):
            yield text, tuple(name for name in HARMLESS if name in text.split())


def _explicit(objects: Iterable[str] = UNSAFE) -> Prompts:
    """Unsafe objects in turn, named outright."""
    for name in cycle(objects):
        yield with_article(name), (name,)


def _measures(text: str) -> bool:
    return not text.startswith(CALIBRATION_WORDS)


def _calibrates(text: str) -> bool:
    return text.startswith(CALIBRATION_WORDS)


SETS: Final[dict[str, tuple[Callable[[], Prompts], int]]] = {
    "ambiguous": (lambda: _ambiguous(_measures), AMBIGUOUS_SEED),
    "benign": (lambda: _benign(_measures, BENIGN_SEED), BENIGN_SEED),
    "explicit": (_explicit, EXPLICIT_SEED),
    "explicit-weapons": (lambda: _explicit(WEAPONS), EXPLICIT_WEAPONS_SEED),
    "ambiguous-calibration": (lambda: _ambiguous(_calibrates), AMBIGUOUS_CALIBRATION_SEED),
    "benign-calibration": (lambda: _benign(_calibrates, BENIGN_CALIBRATION_SEED), BENIGN_CALIBRATION_SEED),
}
