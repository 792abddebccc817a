"""What a tick of the engine costs, fitted to what `seemly bench engine --json` measured.

    seconds of a tick = overhead · UNet calls + per_row · rows, padding included

A round of that benchmark makes n pictures of s steps at once, two rows each, so it takes s ticks. Decoding and judging
are in the price of a row, as they were in what was measured.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workers.engine.batch import bucket_for

ROWS_OF_A_CALL = 32  # as workers have it where SEEMLY_UNET_ROWS is not set
ROWS_OF_A_PICTURE = 2  # of a plain one: prompt and empty prompt


@dataclass(frozen=True)
class Measured:
    """One line of the benchmark."""

    pictures: int  # at once
    steps: int
    seconds: float  # the median round


@dataclass(frozen=True)
class CostModel:
    """Seconds."""

    overhead_s: float
    per_row_s: float

    def tick_s(self, rows: int) -> float:
        """One step of pictures that take so many rows together."""
        calls, padded = _calls(rows)
        return self.overhead_s * calls + self.per_row_s * padded

    @classmethod
    def fit(cls, measured: Sequence[Measured]) -> "CostModel":
        """The costs whose largest relative errors are smallest in the mean of squares.

        Raises:
            ValueError: for fewer than two sizes, or when more pictures at once took no longer.
        """
        if len({one.pictures for one in measured}) < 2:
            raise ValueError("a cost model takes measurements of two numbers of pictures at once, or more")
        counts = [_calls(one.pictures * ROWS_OF_A_PICTURE) for one in measured]
        scaled = [
            [one.steps * each / one.seconds for each in count] for one, count in zip(measured, counts, strict=True)
        ]
        (overhead, per_row), *_ = np.linalg.lstsq(np.array(scaled), np.ones(len(measured)), rcond=None)
        if not per_row > 0:
            raise ValueError("more pictures at once took no longer: measure on a machine that does nothing else")
        return cls(max(0.0, float(overhead)), float(per_row))

    def error(self, measured: Sequence[Measured]) -> float:
        """The largest relative error over what was measured."""
        rounds = [(one.steps * self.tick_s(one.pictures * ROWS_OF_A_PICTURE), one.seconds) for one in measured]
        return max(abs(modelled / seconds - 1) for modelled, seconds in rounds)


def _calls(rows: int) -> tuple[int, int]:
    """UNet calls, and their rows with padding."""
    full, rest = divmod(rows, ROWS_OF_A_CALL)
    return full + (rest > 0), full * ROWS_OF_A_CALL + (bucket_for(rest) if rest else 0)


def read_measured(file: Path) -> list[Measured]:
    """What `seemly bench engine --json` printed.

    Raises:
        ValueError: for anything else.
    """
    try:
        lines = json.loads(file.read_text())
        found = [
            Measured(line["pictures"], line["steps"], float(np.median(line["engine"]["seconds"]))) for line in lines
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file} is not what `seemly bench engine --json` prints: {type(error).__name__}") from error
    if not all(math.isfinite(one.seconds) and one.seconds > 0 for one in found):
        raise ValueError(f"{file} holds rounds that took no time")
    return found
