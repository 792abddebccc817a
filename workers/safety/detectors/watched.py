"""A detector on a thread of its own: asked with a time limit, its answers checked, proved again after every failure.

sound ── raises, answers wrongly ──► proved on a plain picture ── passes ──► sound: it was that picture's fault
  │                                             └── fails ──► out of order, asked nothing, proved again and again
  └── does not answer in time ──► out of order until the thread comes back and the proof passes
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from time import monotonic
from typing import Any, TypeVar

import numpy as np
import torch

from contract.filter import Filter
from contract.verdict import ConceptScore
from workers.safety.detectors.detector import NamedDetector
from workers.safety.protocol import DetectorError, Pictures

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Scores = list[tuple[ConceptScore, ...]]

PROOF = np.full((1, 64, 64, 3), 128, np.uint8)  # a plain grey picture
MARGIN_TOLERANCE = 0.0011  # margins are rounded to 3 digits, scores and thresholds to 6


class Watched:
    """One detector. For any thread.

    Args:
        limit_s: the longest an answer may take
        proof: the filter under which it is proved, so that text concepts are as well
        also: what else it must do to be proved
    """

    def __init__(
        self,
        detector: NamedDetector,
        limit_s: float,
        proof: Filter | None = None,
        also: Callable[[], object] | None = None,
    ) -> None:
        self.detector = detector
        self.name = " and ".join(info.name for info in detector.infos)
        self.trouble: str | None = None  # why it is asked nothing
        self._limit_s = limit_s
        self._proof = proof
        self._also = also
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._unproved: Future[None] | None = None
        threading.Thread(target=self._work, name=self.name, daemon=True).start()

    def ask(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> "Future[Scores]":
        """Have pictures scored; `answer` has the scores."""
        return self.call(partial(self._scored, pixels, outputs))

    def call(self, work: Callable[[], Answer]) -> "Future[Answer]":
        """Have something done on its thread; `answer` has what comes of it."""
        future: Future[Answer] = Future()
        if self.trouble is None:
            self._tasks.put((future, work))
        else:
            future.set_exception(DetectorError(f"{self.name} is out of order: {self.trouble}"))
        return future

    def answer(self, asked: "Future[Answer]", until: float) -> Answer:
        """What was asked for, at the latest at a moment of `time.monotonic`.

        Raises:
            DetectorError: there is none, or it is not to be trusted.
            torch.AcceleratorError: the device is lost.
        """
        try:
            return asked.result(max(0.0, until - monotonic()))
        except (DetectorError, torch.AcceleratorError):
            raise
        except TimeoutError:
            self._fall(f"no answer within {self._limit_s:g} s")
            self.prove()
            raise DetectorError(f"{self.name} gave {self.trouble}") from None

    def prove(self) -> "Future[None]":
        """Have it score a plain picture, after which it is sound again or not; once, however often it is asked for."""
        if self._unproved is None or self._unproved.done():
            self._unproved = Future()
            self._tasks.put((self._unproved, self._proved))
        return self._unproved

    def _fall(self, why: str) -> None:
        if self.trouble is None:
            log.error("the detector %s is out of order: %s", self.name, why)
        self.trouble = why

    def _work(self) -> None:
        torch.set_num_threads(1)  # a second pool of OpenMP's would slow down the engine's: see `workers.main`
        while True:
            future, work = self._tasks.get()
            try:
                answer = self._careful(work)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the thread must live to answer again
                if work == self._proved:
                    self._fall(str(error))
                elif isinstance(error, DetectorError):
                    self._prove_now()
                future.set_exception(error)
            else:
                if work == self._proved:
                    self._stand()
                future.set_result(answer)

    def _prove_now(self) -> None:
        try:
            self._careful(self._proved)
        except Exception as error:  # noqa: BLE001 - it is out of order in any way
            self._fall(str(error))

    def _proved(self) -> None:
        self._scored(PROOF, [self._proof])
        if self._also is not None:
            self._also()

    def _stand(self) -> None:
        if self.trouble is not None:
            log.warning("the detector %s is sound again", self.name)
        self.trouble = None

    def _careful(self, work: Callable[[], Answer]) -> Answer:
        """What the detector answers.

        Raises:
            DetectorError: it raises, or its answer is incomplete or contradicts itself.
        """
        try:
            return work()
        except (DetectorError, torch.AcceleratorError):
            raise
        except BaseException as error:
            raise DetectorError(f"{self.name} failed: {str(error) or type(error).__name__}") from error

    def _scored(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> Scores:
        answer = self.detector.score(pixels, outputs)
        self._check(answer, outputs)
        return answer

    def _check(self, answer: Scores, outputs: Sequence[Filter | None]) -> None:
        if len(answer) != len(outputs):
            raise DetectorError(f"{self.name} scored {len(answer)} of {len(outputs)} pictures")
        signatures = {(info.name, info.version) for info in self.detector.infos}
        for scores, output in zip(answer, outputs, strict=True):
            expected, found = self.detector.names(output), tuple(score.name for score in scores)
            if found != expected:
                raise DetectorError(f"{self.name} gave {len(found)} scores that are not the {len(expected)} expected")
            for score in scores:
                if not all(map(math.isfinite, (score.score, score.threshold, score.margin))):
                    raise DetectorError(f"{self.name} gave a score that is not finite")
                if not _is_coherent(score) or (score.detector, score.detector_version) not in signatures:
                    raise DetectorError(f"{self.name} gave a score that contradicts itself")


def _is_coherent(score: ConceptScore) -> bool:
    adds_up = abs(score.score - score.threshold - score.margin) <= MARGIN_TOLERANCE
    return adds_up and score.flagged == (score.margin > 0 and not score.special_care)
