"""A detector on a thread of its own: asked with a time limit, its answers checked, proved again after every failure.

sound ── raises, answers wrongly ──► proved on a plain picture ── passes ──► sound: it was that picture's fault
  │                                             └── fails ──► out of order, asked nothing, proved again and again
  └── does not answer in time ──► out of order until the thread comes back and the proof passes
"""

import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from queue import SimpleQueue
from time import monotonic

import numpy as np
import torch

from contract.plan import Filter
from contract.verdict import ConceptScore
from workers.safety.detectors.detector import NamedDetector
from workers.safety.protocol import DetectorError, Pictures

log = logging.getLogger(__name__)

Scores = list[tuple[ConceptScore, ...]]

PROOF = np.full((1, 64, 64, 3), 128, np.uint8)  # a plain grey picture
MARGIN_TOLERANCE = 0.0011  # margins are rounded to 3 digits, scores and thresholds to 6


class Watched:
    """One detector. `ask` and `scores` are for the engine's thread, the rest for any.

    Args:
        limit_s: the longest an answer may take
        proof: the filter under which it is proved, so that text concepts are as well
    """

    def __init__(self, detector: NamedDetector, limit_s: float, proof: Filter | None = None) -> None:
        self.detector = detector
        self.name = " and ".join(info.name for info in detector.infos)
        self.trouble: str | None = None  # why it is asked nothing
        self._limit_s = limit_s
        self._proof = proof
        self._tasks: SimpleQueue[tuple[Future[Scores], Pictures, Sequence[Filter | None]]] = SimpleQueue()
        self._unproved: Future[Scores] | None = None
        threading.Thread(target=self._work, name=self.name, daemon=True).start()

    def ask(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> "Future[Scores]":
        """Have pictures scored; `scores` has the answer."""
        future: Future[Scores] = Future()
        if self.trouble is None:
            self._tasks.put((future, pixels, outputs))
        else:
            future.set_exception(DetectorError(f"{self.name} is out of order: {self.trouble}"))
        return future

    def scores(self, asked: "Future[Scores]", until: float) -> Scores:
        """The answer, complete and finite, at the latest at a moment of `time.monotonic`.

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

    def prove(self) -> "Future[Scores]":
        """Have it score a plain picture, after which it is sound again or not; once, however often it is asked for."""
        if self._unproved is None or self._unproved.done():
            self._unproved = Future()
            self._tasks.put((self._unproved, PROOF, [self._proof]))
        return self._unproved

    def _fall(self, why: str) -> None:
        if self.trouble is None:
            log.error("the detector %s is out of order: %s", self.name, why)
        self.trouble = why

    def _work(self) -> None:
        torch.set_num_threads(1)  # a second pool of OpenMP's would slow down the engine's: see `workers.main`
        while True:
            future, pixels, outputs = self._tasks.get()
            try:
                answer = self._scored(pixels, outputs)
            except BaseException as error:  # noqa: BLE001 - whatever it is, the thread must live to answer again
                if isinstance(error, DetectorError) and pixels is not PROOF:
                    self._prove_now()
                elif pixels is PROOF:
                    self._fall(str(error))
                future.set_exception(error)
            else:
                if pixels is PROOF:
                    self._stand()
                future.set_result(answer)

    def _prove_now(self) -> None:
        try:
            self._scored(PROOF, [self._proof])
        except Exception as error:  # noqa: BLE001 - it is out of order in any way
            self._fall(str(error))

    def _stand(self) -> None:
        if self.trouble is not None:
            log.warning("the detector %s is sound again", self.name)
        self.trouble = None

    def _scored(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> Scores:
        """What the detector answers.

        Raises:
            DetectorError: it raises, or its answer is incomplete or contradicts itself.
        """
        try:
            answer = self.detector.score(pixels, outputs)
            self._check(answer, outputs)
        except (DetectorError, torch.AcceleratorError):
            raise
        except BaseException as error:
            raise DetectorError(f"{self.name} failed: {str(error) or type(error).__name__}") from error
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
