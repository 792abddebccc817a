"""What a compare tells beyond its pictures: how far each plan moved the scores, and the picture, from the first plan's.

A distance is one between pictures as they are delivered, so it tells nothing that their files do not: of a withheld
picture there is none, and of a blurred one only how far its blur is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from contract.job import Job
from contract.result import ComparedPicture, Picture, Result, ScoreDifference
from workers.results import Judged

Pixels = NDArray[np.uint8]  # (height, width, 3), RGB


@dataclass
class Distances:
    """Of each picture from the first one, by index. Holds pixels only until they are compared."""

    by_index: dict[int, float] = field(default_factory=dict)
    _first: Pixels | None = None
    _waiting: dict[int, Pixels] = field(default_factory=dict)

    def note(self, judged: Judged) -> None:
        """One more picture has its verdict, and is not made again."""
        index, pixels = judged.picture.index, judged.pixels
        if pixels is None:
            return
        if index == 0:
            self._first = pixels
        self._waiting[index] = pixels
        if self._first is not None:
            for other, compared in self._waiting.items():
                self.by_index[other] = distance(self._first, compared)
            self._waiting.clear()


def distance(first: Pixels, other: Pixels) -> float:
    """Root mean square difference of all values, from 0 to 255, to one decimal."""
    return round(float(np.sqrt(np.mean((other.astype(float) - first.astype(float)) ** 2))), 1)


def with_comparison(result: Result, job: Job, judged: Sequence[Judged], distances: Distances) -> Result:
    """A compare's result with an entry for each plan; any other job's as it is."""
    if not job.compared or result.safety is None:
        return result
    entries = tuple(
        ComparedPicture(
            index=index,
            label=compared.label,
            safety=result.safety.model_copy(update={"requested": compared.requested, "applied": one.outcome.applied}),
            unet_rows=one.outcome.unet_rows,
            differences=_differences(judged[0].picture, one.picture) if index else (),
            distance=distances.by_index.get(index),
        )
        for index, (compared, one) in enumerate(zip(job.compared, judged, strict=True))
    )
    return result.model_copy(update={"safety": None, "comparison": entries})


def _differences(first: Picture, other: Picture) -> tuple[ScoreDifference, ...]:
    before = {(score.detector, score.name): score.score for score in first.concepts}
    return tuple(
        ScoreDifference(
            name=score.name,
            detector=score.detector,
            difference=round(score.score - before[score.detector, score.name], 6),
        )
        for score in other.concepts
        if (score.detector, score.name) in before
    )
