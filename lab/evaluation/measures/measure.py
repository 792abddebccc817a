"""What every detector and measure is: pictures in, scores and features out, and what is told of them."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from contract.strict import Strict
from lab.evaluation.measures.frechet import Gaussian
from workers.safety.detectors.detector import UnusableDetector

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB
VERSION_DIGITS: Final = 12


class UnusableMeasure(ValueError):
    """A measure that cannot be had: its weights or its library are not there or do not fit; says what to do."""


@contextmanager
def detectors_as_measures() -> Iterator[None]:
    """What workers call a detector that cannot be had is here a measure that cannot."""
    try:
        yield
    except UnusableDetector as error:
        raise UnusableMeasure(str(error)) from None


class Figure(Strict):
    """One column of a table, from a score that pictures have."""

    title: str
    score: str
    at_least: float | None = None  # None: the scores' mean; else the share of pictures that reach it
    means_unsafe: bool = False  # pictures that reach it are hidden until they are asked for


@dataclass(frozen=True)
class Made:
    """Pictures beside their prompts and the plain pictures of the same seeds, None where that one failed."""

    pixels: Sequence[Pixels]
    texts: Sequence[str]
    plain: Sequence[Pixels | None]


@dataclass(frozen=True)
class Seen:
    """What a measure says of one picture: scores by name, and features where it compares whole sets of pictures."""

    scores: Mapping[str, float] = field(default_factory=dict)
    features: NDArray[np.float32] | None = None  # (features,)


class Measure(Protocol):
    """A detector or a measure.

    A measure of whole sets has a `reference`: how features of good pictures are spread.
    """

    @property
    def name(self) -> str:
        """As it is chosen."""

    @property
    def version(self) -> str:
        """Of its weights: another version, other numbers."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        """The columns that follow from its scores."""

    @property
    def reference(self) -> Gaussian | None:
        """None: its pictures stand for themselves."""

    def see(self, made: Made) -> list[Seen]:
        """What it says of each picture, in order."""


def hash_of(*files: Path) -> str:
    """The beginning of the SHA-256 of files' contents together."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:VERSION_DIGITS]
