"""Whether this worker may be given jobs: announced for as long as all of its detectors are sound."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from workers.announce import Announcement
from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)


class Detectors(Protocol):
    """What is asked of a panel from outside the engine."""

    @property
    def troubles(self) -> Mapping[str, str]:
        """The detectors that are out of order, and why; empty when all are sound."""

    def mend(self) -> None:
        """Have those that are out of order proved again."""


@dataclass
class Readiness:
    """Announces the worker, withdraws it while a detector is out of order, and has such a one proved again."""

    announcement: Announcement
    metrics: WorkerMetrics
    detectors: Detectors | None = None
    is_announced: bool = field(default=False, init=False)

    @property
    def is_fit(self) -> bool:
        """Whether pictures made now could be judged."""
        return self.detectors is None or not self.detectors.troubles

    def renew(self) -> None:
        """Be ready for another lease, if fit."""
        if self.is_fit:
            self.announcement.renew()
            self.is_announced = True

    def look(self) -> None:
        """Follow the detectors: withdraw at once when one falls, come back when all are sound."""
        if self.detectors is None:
            return
        troubles = self.detectors.troubles
        self.metrics.detectors_in_trouble.set(len(troubles))
        self.detectors.mend()
        if troubles and self.is_announced:
            log.error("not ready: %s", "; ".join(f"{name}: {why}" for name, why in troubles.items()))
            self.withdraw()
        elif not troubles and not self.is_announced:
            log.info("ready again: every detector is sound")
            self.renew()

    def withdraw(self) -> None:
        """Be ready no longer."""
        self.announcement.withdraw()
        self.is_announced = False
