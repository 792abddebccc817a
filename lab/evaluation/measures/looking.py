"""Measures as a run's observer: scores and features into each picture's line, and pictures into files when wanted."""

import base64
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.evaluation.measures.measure import Made, Measure, Pixels, Seen
from lab.evaluation.results import Measured

LONGEST_NAME: Final = 200


class MeasureFailed(RuntimeError):
    """A measure gave a score that is none."""


class Looking:
    """Looks at each picture through every measure.

    Args:
        keep: folder for the pictures themselves; None keeps none
    """

    def __init__(self, measures: Sequence[Measure], keep: Path | None = None) -> None:
        self.measures, self._keep = tuple(measures), keep

    def has_seen(self, line: Measured) -> bool:
        """Pictures that are to be kept and were not are made again."""
        return self._keep is None or line.failure is not None or file_of(self._keep, line).is_file()

    def seen(
        self, lines: Sequence[Measured], made: Sequence[Pixels | None], plain: Sequence[Pixels | None]
    ) -> list[Measured]:
        """The lines with scores and features.

        Raises:
            MeasureFailed: a score that is not finite.
        """
        whole = {i: picture for i, picture in enumerate(made) if picture is not None}
        looked_at = Made(tuple(whole.values()), [lines[i].text for i in whole], [plain[i] for i in whole])
        told = list(lines)
        if whole and self.measures:
            views = zip(*(self._checked(measure, looked_at) for measure in self.measures), strict=True)
            for i, of_picture in zip(whole, views, strict=True):
                told[i] = _with(
                    lines[i], dict(zip((measure.name for measure in self.measures), of_picture, strict=True))
                )
        if self._keep is not None:
            for i, picture in whole.items():
                _write(picture, file_of(self._keep, lines[i]))
        return told

    @staticmethod
    def _checked(measure: Measure, made: Made) -> list[Seen]:
        views = measure.see(made)
        for text, view in zip(made.texts, views, strict=True):
            features = () if view.features is None else view.features
            if not all(map(math.isfinite, (*view.scores.values(), *features))):
                raise MeasureFailed(f"{measure.name} gave a score that is not finite, for {text!r}")
        return views


def _with(line: Measured, views: Mapping[str, Seen]) -> Measured:
    scores = {name: score for view in views.values() for name, score in view.scores.items()}
    features = {name: packed(view.features) for name, view in views.items() if view.features is not None}
    return replace(line, scores=scores or None, features=features or None)


def packed(features: NDArray[np.float32]) -> str:
    """Features as a line of results holds them."""
    return base64.b64encode(features.astype("<f4").tobytes()).decode()


def unpacked(features: Sequence[str]) -> NDArray[np.float32]:
    """(pictures, features) of lines."""
    return np.stack([np.frombuffer(base64.b64decode(each), "<f4") for each in features])


def file_of(folder: Path, line: Measured) -> Path:
    """Where a picture is kept."""
    return folder / _folder_name(line.prompts) / _folder_name(line.plan) / f"{line.index:05}.png"


def _folder_name(name: str) -> str:
    """Any name as one that every disk takes."""
    quoted = quote(name, safe="+:").replace(".", "%2E")
    if len(quoted) <= LONGEST_NAME:
        return quoted
    return f"{quoted[:LONGEST_NAME]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _write(picture: Pixels, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".part")
    Image.fromarray(picture).save(unfinished, "PNG")
    os.replace(unfinished, file)
