"""Timing arms against each other in one process: interleaved A B B A, so that a drifting machine favours none."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Run = Callable[[], None]


@dataclass(frozen=True)
class Timing:
    """What an arm's rounds took, seconds each."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median round, seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """The first and the third quartile, seconds."""
        first, _, third = statistics.quantiles(self.seconds, n=4)
        return first, third


def time_interleaved(arms: Mapping[str, Run], repeats: int) -> dict[str, Timing]:
    """Every arm `repeats` times after one round of warm-up; the order turns round at every repeat."""
    for run in arms.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for name in _orders(list(arms), repeats):
        started = time.perf_counter()
        arms[name]()
        seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(taken)) for name, taken in seconds.items()}


def _orders(names: list[str], repeats: int) -> Iterator[str]:
    for repeat in range(repeats):
        yield from names if repeat % 2 == 0 else reversed(names)
