"""The keeper's thread: leases and readiness renewed, detectors looked after, cancellations obeyed, lost jobs sought, a
hung engine noticed.

It knows neither what jobs are for nor what runs them, so every kind of worker has one.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from redis.exceptions import RedisError

from contract.job import AnyJob
from workers.lifecycle import RqWorker
from workers.metrics import WorkerMetrics
from workers.reaper import Reaper
from workers.records import JobRecords
from workers.settings import Settings
from workers.shift import Shift
from workers.trouble import log_error, log_redis_error

log = logging.getLogger(__name__)


class InFlight(Protocol):
    """A job that was started."""

    @property
    def job(self) -> AnyJob: ...  # noqa: D102

    @property
    def attempt(self) -> int: ...  # noqa: D102


class Readiness(Protocol):
    """What a worker tells the gateway of itself."""

    def renew(self) -> None: ...  # noqa: D102

    def look(self) -> None: ...  # noqa: D102

    def withdraw(self) -> None: ...  # noqa: D102


@dataclass(frozen=True)
class Keeper:
    """Looks after the jobs in flight; the shift has failed when a step of the engine does not end."""

    settings: Settings
    rq: RqWorker
    readiness: Readiness
    reaper: Reaper
    records: JobRecords
    cancel: Callable[[str], None]  # by its id
    metrics: WorkerMetrics
    in_flight: Mapping[str, InFlight]
    step_began: Callable[[], float | None]  # monotonic; None between two steps
    shift: Shift

    def run(self) -> None:
        """Keep what is in flight alive until the worker closes, or until the engine hangs."""
        next_beat = next_maintenance = 0.0
        while not self.shift.is_closing.wait(self.settings.watch_s):
            if self._engine_hangs():
                log.error("a step of the engine lasts longer than %s s; the worker ends", self.settings.step_limit_s)
                self.shift.has_failed.set()
                with contextlib.suppress(RedisError):  # readiness ends by itself
                    self.readiness.withdraw()
                return
            try:
                if time.monotonic() >= next_beat:
                    self.rq.beat()
                    if not self.rq.stop_was_requested:
                        self.readiness.renew()
                    next_beat = time.monotonic() + self.settings.heartbeat_s
                self._watch()
                if not self.rq.stop_was_requested:
                    self.readiness.look()
                if time.monotonic() >= next_maintenance:
                    self.reaper.run()
                    next_maintenance = time.monotonic() + self.settings.maintenance_s
            except RedisError as error:
                log_redis_error("keeping leases", error, self.metrics)
            except Exception as error:  # noqa: BLE001 - without this thread every lease would end
                log_error("the keeper stumbled", error)

    def _engine_hangs(self) -> bool:
        began = self.step_began()
        return began is not None and time.monotonic() - began > self.settings.step_limit_s

    def _watch(self) -> None:
        """Cancel what was asked to be canceled, and what another attempt or an ending has made pointless."""
        running = list(self.in_flight.values())
        if running:
            standings = self.records.standings([one.job.id for one in running])
            for one, standing in zip(running, standings, strict=True):
                if standing.is_canceled or not standing.is_still(one.attempt):
                    self.cancel(one.job.id)
