"""What every detector is: a name, a version, a hash of its weights, and scores for pictures."""

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contract.filter import Filter
from contract.model import DetectorInfo
from contract.verdict import ConceptScore
from workers.safety.protocol import Pictures

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB


class UnusableDetector(ValueError):
    """A detector that cannot be had: its weights or its package are not there, do not fit or are not those pinned."""


class NamedDetector(Protocol):
    """Scores finished pictures. It may raise whatever it likes: a picture it leaves without scores is withheld."""

    @property
    def infos(self) -> tuple[DetectorInfo, ...]:
        """The name, version and hash that its scores carry; more than one where detectors share their work."""

    def names(self, output: Filter | None) -> tuple[str, ...]:
        """The concepts that a picture under this filter is scored for, in order."""

    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        """Pictures and each picture's own filter → each picture's scores."""


def hash_files(files: Iterable[Path], root: Path) -> str:
    """SHA-256 over the sorted lines `<sha256>  <path>`, as `sha256sum` prints them; paths are told from `root` on."""
    lines = []
    for path in sorted(files):
        with path.open("rb") as file:
            lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.relative_to(root).as_posix()}\n")
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def score_of(info: DetectorInfo, name: str, category: str, score: float, threshold: float) -> ConceptScore:
    """A score against a threshold, with its margin; over 0 it is flagged."""
    margin = round(score - threshold, 3)
    return ConceptScore(
        name=name,
        category=category,
        detector=info.name,
        detector_version=info.version,
        score=round(score, 6),
        threshold=round(threshold, 6),
        margin=margin,
        flagged=margin > 0,
    )
