"""A detector that goes wrong in every way a test asks for."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from contract.filter import Filter
from contract.model import DetectorInfo
from contract.verdict import ConceptScore
from workers.safety.detectors.detector import Pixels, score_of

LIMIT_S = 1.0
INFO = DetectorInfo(name="colours", version="1", sha256="0" * 64, concepts=("redness", "blueness"))
POISON = 7  # the value of a picture's first byte that trips it

Scores = list[tuple[ConceptScore, ...]]


class Colours:
    """How red and how blue a picture is. `fault` acts on pictures that `trips` says; None is sound."""

    def __init__(self, fault: "Fault | None" = None, trips: Callable[[Pixels], bool] = lambda _: True) -> None:
        self.fault, self.trips = fault, trips
        self.release = threading.Event()  # ends a hang

    infos = (INFO,)

    def names(self, output: Filter | None) -> tuple[str, ...]:
        return INFO.concepts

    def score(self, pixels: Pixels, outputs: Sequence[Filter | None]) -> Any:
        scores = [
            tuple(
                score_of(INFO, name, "colour", float(picture[..., channel].mean() / 255), 2.0)
                for name, channel in (("redness", 0), ("blueness", 2))
            )
            for picture in pixels
        ]
        if self.fault is not None and any(map(self.trips, pixels)):
            return self.fault(scores, self)
        return scores


Fault = Callable[[Scores, Colours], Any]


def raising(error: BaseException) -> Fault:
    def fault(scores: Scores, detector: Colours) -> Any:
        raise error

    return fault


def changed(**fields: Any) -> Fault:
    """The first score of the last picture says something else; unchecked, as out of a cache or another version."""

    def fault(scores: Scores, detector: Colours) -> Any:
        *others, (first, second) = scores
        return [*others, (first.model_copy(update=fields), second)]

    return fault


def hangs(scores: Scores, detector: Colours) -> Any:
    detector.release.wait()
    return scores


def is_slow(scores: Scores, detector: Colours) -> Any:
    time.sleep(2 * LIMIT_S)
    return scores


def breaks_off(scores: Scores, detector: Colours) -> Iterator[Any]:
    yield scores[0]
    raise EOFError


NAN, INFINITE = float("nan"), float("inf")
FAULTS: dict[str, Fault] = {
    "raises": raising(RuntimeError("no")),
    "its file is gone": raising(FileNotFoundError("weights.onnx")),
    "its library is gone": raising(ImportError("onnxruntime")),
    "runs out of memory": raising(MemoryError()),
    "runs out of the device's memory": raising(torch.OutOfMemoryError("CUDA out of memory")),
    "exits": raising(SystemExit(1)),
    "is interrupted": raising(KeyboardInterrupt()),
    "recurses": raising(RecursionError()),
    "divides by zero": raising(ZeroDivisionError()),
    "raises TimeoutError of its own": raising(TimeoutError()),
    "hangs": hangs,
    "is slow": is_slow,
    "gives nothing": lambda scores, _: None,
    "gives an empty list": lambda scores, _: [],
    "gives too few pictures": lambda scores, _: scores[:-1],
    "gives too many pictures": lambda scores, _: [*scores, scores[0]],
    "gives pictures without scores": lambda scores, _: [()] * len(scores),
    "gives too few scores": lambda scores, _: [own[:1] for own in scores],
    "gives too many scores": lambda scores, _: [(*own, own[0]) for own in scores],
    "gives scores in another order": lambda scores, _: [own[::-1] for own in scores],
    "gives one score twice": lambda scores, _: [(own[0], own[0]) for own in scores],
    "gives bare numbers": lambda scores, _: [(0.1, 0.2)] * len(scores),
    "gives an array": lambda scores, _: np.zeros((len(scores), 2)),
    "gives an array of another shape": lambda scores, _: np.zeros((2, len(scores), 2, 1)),
    "gives an array of NaN": lambda scores, _: np.full((len(scores), 2), NAN),
    "gives None for a score": lambda scores, _: [(own[0], None) for own in scores],
    "gives a text": lambda scores, _: "safe",
    "gives a dict": lambda scores, _: dict(enumerate(scores)),
    "breaks off": breaks_off,
    "gives NaN": changed(score=NAN),
    "gives infinity": changed(score=INFINITE),
    "gives minus infinity": changed(score=-INFINITE),
    "has NaN for a threshold": changed(threshold=NAN),
    "has infinity for a threshold": changed(threshold=INFINITE),
    "has NaN for a margin": changed(margin=NAN),
    "has a margin that does not add up": changed(margin=-0.5),
    "does not flag what is over its threshold": changed(score=2.5, margin=0.5),
    "flags what is under it": changed(flagged=True),
    "scores another concept": changed(name="greenness"),
    "signs with another's name": changed(detector="clip-checker"),
    "became another version": changed(detector_version="2"),
}
