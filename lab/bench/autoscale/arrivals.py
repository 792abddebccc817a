"""A day of requests: quiet at night, busy at noon, with bursts; and what their jobs ask for.

Arrivals are a Poisson process whose rate is

    mean · (1 − 0.85 cos 2πt/T) + (during a burst) 2 · mean

over a day of T seconds, thinned from its largest rate (Lewis and Shedler 1979).
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

SWING = 0.85
BURST = 2.0
BURSTS = ((0.15, 0.01), (0.40, 0.02), (0.62, 0.01), (0.85, 0.015))  # begin and length, shares of a day

# Of a hundred jobs, how many take so many rows for each step of a picture: plain, filtered and erased two, SLD three,
# SEGA with three concepts five; unguidance's looks and corrections count for as many as take their time.
MIX = ((60, 2), (20, 3), (10, 5), (10, 6))
STEPS = (20, 25, 50)
PICTURES = (1, 1, 1, 2, 4)


@dataclass(frozen=True)
class Arrival:
    """A job, when it is accepted."""

    at: float  # seconds from the day's beginning
    pictures: int
    steps: int
    rows: int  # UNet rows of one picture's step


def rate(at: float, day_s: float) -> float:
    """The rate at a moment, in units of its mean over a day without bursts."""
    share = at / day_s % 1
    bursts = sum(BURST for begin, length in BURSTS if begin <= share < begin + length)
    return 1 - SWING * math.cos(2 * math.pi * share) + bursts


def day(mean_per_s: float, day_s: float, seed: int) -> list[Arrival]:
    """All arrivals of one day. The same seed gives the same day."""
    return list(_arrivals(mean_per_s, day_s, random.Random(seed)))  # noqa: S311 - no secret


def _arrivals(mean_per_s: float, day_s: float, chance: random.Random) -> Iterator[Arrival]:
    highest = 1 + SWING + BURST
    rows, weights = [each for _, each in MIX], [share for share, _ in MIX]
    at = 0.0
    while (at := at + chance.expovariate(mean_per_s * highest)) < day_s:
        if chance.random() * highest < rate(at, day_s):
            [own] = chance.choices(rows, weights)
            yield Arrival(at, chance.choice(PICTURES), chance.choice(STEPS), own)


def mean_row_steps() -> float:
    """Rows times steps of a job, in the mean."""
    rows = sum(share * each for share, each in MIX) / sum(share for share, _ in MIX)
    return rows * sum(STEPS) / len(STEPS) * sum(PICTURES) / len(PICTURES)
