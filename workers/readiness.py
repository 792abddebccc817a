"""Whether this worker may be given jobs: announced for as long as all of its detectors are sound and Redis is safe."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from contract.prompt_concepts import TextScore
from contract.redis_safety import RedisSafety
from workers.announce import Announcement
from workers.metrics import WorkerMetrics
from workers.safety.protocol import ReadText

log = logging.getLogger(__name__)


class Detectors(Protocol):
    """What is asked of a panel from outside the engine."""

    @property
    def troubles(self) -> Mapping[str, str]:
        """The detectors that are out of order, and why; empty when all are sound."""

    def mend(self) -> None:
        """Have those that are out of order proved again."""

    def read(self, texts: Sequence[ReadText], concepts: Sequence[str]) -> tuple[TextScore, ...]:
        """Every text's score for every concept; raises DetectorError."""


@dataclass
class Readiness:
    """Announces the worker, withdraws it while a detector is out of order or Redis unsafe, and looks after both."""

    announcement: Announcement
    metrics: WorkerMetrics
    redis_safety: RedisSafety
    detectors: Detectors | None = None
    is_announced: bool = field(default=False, init=False)
    redis_faults: tuple[str, ...] = field(default=(), init=False)

    @property
    def is_fit(self) -> bool:
        """Whether pictures made now could be judged, and jobs taken now would not be lost."""
        return not self._why_not()

    def renew(self) -> None:
        """Be ready for another lease, if fit.

        Raises:
            RedisError: it does not answer.
        """
        self.redis_faults = self.redis_safety.faults()
        if self.is_fit:
            self.announcement.renew()
            self.is_announced = True

    def look(self) -> None:
        """Follow the detectors and Redis: withdraw at once when one falls, come back when all is well.

        Raises:
            RedisError: it does not answer.
        """
        if self.detectors is not None:
            self.metrics.detectors_in_trouble.set(len(self.detectors.troubles))
            self.detectors.mend()
        self.redis_faults = self.redis_safety.faults()
        why_not = self._why_not()
        if why_not and self.is_announced:
            log.error("not ready: %s", "; ".join(why_not))
            self.withdraw()
        elif not why_not and not self.is_announced:
            log.info("ready again: every detector is sound, and Redis is safe")
            self.renew()

    def withdraw(self) -> None:
        """Be ready no longer."""
        self.announcement.withdraw()
        self.is_announced = False

    def _why_not(self) -> tuple[str, ...]:
        troubles = self.detectors.troubles if self.detectors is not None else {}
        return (*(f"{name}: {why}" for name, why in troubles.items()), *self.redis_faults)
