"""`python -m lab.worker`: makes erased weights as jobs ask for them, one at a time.

    main thread    pop → lease → START → `lab.erasure.attempt` → COMMIT
    keeper         heartbeats, cancellations, the reaper: `workers.keeper`, as of every worker

A job that is in hand when the worker is told to end goes back to the queue; the next attempt goes on with it.
"""

import logging
import sys
import time
from collections.abc import Mapping
from tempfile import TemporaryFile
from typing import Any, Final

import torch
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.erasure import ErasureJob, Lab
from contract.exits import give_up
from contract.health import HealthServer
from contract.redis_safety import RedisSafety
from contract.result import Ended, Status
from lab.announcement import Announcement
from lab.erasure.attempt import Attempt, keeps_work
from lab.erasure.job import Workshop
from workers.checkpoint import UnusableModel, check_pin, find_folder
from workers.ending import Ending
from workers.keeper import Keeper
from workers.lifecycle import RqWorker, Ticket
from workers.main import UnusableSetting, begin, check_places, choose_device, refuse_unsafe
from workers.metrics import MetricsServer, WorkerMetrics
from workers.progress import tell
from workers.reaper import Reaper
from workers.records import JobRecords, Started, connect
from workers.results import failed
from workers.settings import Settings
from workers.shift import Shift
from workers.taking import Taking, unknown_function, why_over
from workers.trouble import log_error, log_redis_error
from workers.variants.standing import withdraw
from workers.worker import THREADS_END_WITHIN_S

log = logging.getLogger(__name__)

PAUSES_S: Final = (2.0, 60.0)  # after trouble, before the next attempt: twice as long each time, at most so long
EXIT_FAILED: Final = 70
TURNS_WITHIN_S: Final = 1800.0  # one iteration, one batch of pictures measured, or loading the model; on a CPU as well


class LabWorker:
    """One workshop, one queue. `run` returns the process's exit code."""

    def __init__(
        self, settings: Settings, connection: Redis, workshop: Workshop, lab: Lab, metrics: WorkerMetrics
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._workshop = workshop
        self._announcement = Announcement(connection, lab, RedisSafety(connection, settings.allow_unsafe_redis))
        self._metrics = metrics
        self._records = JobRecords(connection, settings.record_ttl_s)
        self._rq = RqWorker(keys.lab_queue_name(lab.model), connection, settings.lease_s, on_stop_job=self._stop)
        self._shift = Shift(self._rq)
        self._ending = Ending(self._records, self._rq, metrics)
        self._taking = Taking(
            self._records, self._rq, self._ending, metrics, self._shift, is_fit=lambda: self._announcement.is_fit
        )
        self._in_hand: dict[str, Attempt] = {}
        self._told_at = 0.0
        self._turned_at = time.monotonic()  # when the loop last began anew, or a job told of progress
        most = ErasureJob.most_attempts
        self._keeper = Keeper(
            settings,
            self._rq,
            self._announcement,
            Reaper(connection, self._rq.queue, self._records, metrics, settings.homeless_grace_s, most),
            self._records,
            self._stop,
            metrics,
            self._in_hand,
            step_began=lambda: None,
            shift=self._shift,
        )

    @property
    def is_alive(self) -> bool:
        """Whether its loop turns, and within it the job in hand."""
        return time.monotonic() - self._turned_at <= TURNS_WITHIN_S

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs: its keeper renews leases, and Redis keeps what it accepts."""
        announced = self._announcement
        return announced.is_fit and time.monotonic() - announced.renewed_at < self._settings.lease_s

    def stop(self) -> None:
        """Ask for the end, as SIGTERM does."""
        self._rq.stop_soon()

    def run(self) -> int:
        """Work until a signal asks for the end; a job that is in hand then goes back to the queue."""
        self._rq.enlist()
        self._announcement.renew()
        log.info("lab worker %s makes variants of %s", self._rq.name, self._announcement.lab.model)
        self._shift.begin({"keeper": self._keeper.run})
        try:
            while not self._shift.must_end:
                self._turned_at = time.monotonic()
                if self._taking.is_open:
                    self._taking.one(self._begin)
                else:
                    time.sleep(0.2)
        except SystemExit:
            log.warning("stopped at once; the job in hand comes back when its lease ends")
        finally:
            self._shift.end(THREADS_END_WITHIN_S)
            self._rq.retire()
        return EXIT_FAILED if self._shift.has_failed.is_set() else 0

    def _stop(self, job_id: str) -> None:
        if (one := self._in_hand.get(job_id)) is not None:
            one.is_stopped.set()

    def _begin(self, ticket: Ticket) -> None:
        self._rq.begin(ticket)
        if (started := self._taking.start(ticket)) is not None:
            self._end(ticket, started)

    def _end(self, ticket: Ticket, started: Started) -> None:
        """Do a started job and commit what became of it; without an answer it goes back to the queue."""
        result = self._result(ticket, started)
        if result is None:  # stopped, or troubled
            [standing] = self._records.standings([ticket.job_id])
            if not standing.is_canceled and standing.is_still(started.attempt):
                self._rq.retry(ticket, "another attempt goes on with it")
                return
            result = Ended(status=Status.CANCELED)
        is_over = self._ending.end(ticket, started.attempt, result, keys.ERASURES)
        if is_over and not keeps_work(result):
            self._workshop.forget(ticket.job_id)

    def _result(self, ticket: Ticket, started: Started) -> Ended | None:
        """What became of a job; None when it was stopped, or is to be tried again."""
        if ticket.function != keys.ERASE:
            return unknown_function()
        try:
            job = ErasureJob.model_validate_json(started.job_json)
        except ValidationError:
            return failed("invalid_job", "the job's record is invalid")
        if job.id != ticket.job_id or job.model != self._announcement.lab.model:
            return failed("invalid_job", "the job's record holds another job")
        if (end := why_over(job, started)) is not None:
            if started.is_canceled:
                self._withdraw(job)
            return end
        one = self._in_hand[job.id] = Attempt(job, started.attempt)
        try:
            result = one.result(self._workshop, lambda data: self._tell(one, data))
            if result is None:
                self._pause(one)
            return result
        except torch.AcceleratorError as error:  # nothing in this process can run on it again
            log.error("the device is lost; the worker ends")
            self._shift.has_failed.set()
            return one.after(error)
        finally:
            del self._in_hand[job.id]

    def _withdraw(self, job: ErasureJob) -> None:
        """Take off the shelf what an attempt put there that was killed before it could say so."""
        try:
            withdraw(self._workshop.variants / job.name, job.id)
        except OSError as error:
            log_error(f"the canceled erasure {job.id} leaves its variant {job.name!r} behind", error)

    def _pause(self, one: Attempt) -> None:
        """Leave time for what is wrong to be mended; none when it was stopped."""
        first_s, most_s = PAUSES_S
        over_at = time.monotonic() + min(first_s * 2 ** (one.attempt - 1), most_s)
        while time.monotonic() < over_at and not self._is_stopped(one):
            time.sleep(0.05)

    def _tell(self, one: Attempt, data: Mapping[str, Any]) -> bool:
        """Tell progress, now and then. Whether to go on."""
        self._turned_at = time.monotonic()
        if time.monotonic() - self._told_at >= self._settings.progress_s or data["step"] == data["steps"]:
            self._told_at = time.monotonic()
            try:
                tell(self._connection, one.job.id, one.attempt, data)
            except RedisError as error:
                log_redis_error("telling progress", error, self._metrics)
        return not self._is_stopped(one)

    def _is_stopped(self, one: Attempt) -> bool:
        return one.is_stopped.is_set() or self._shift.must_end


def main() -> None:
    """Run a lab's worker until it is told to stop; exit code EX_CONFIG over a setting."""
    settings = begin(check_places, check_folders)
    with HealthServer(settings.health_port, settings.health_host) as health:
        exit_code = _work(settings, health)
    sys.exit(exit_code)


def check_folders(settings: Settings) -> None:
    """Try the folders that a lab writes to.

    Raises:
        UnusableSetting: it may not.
    """
    for variable, folder in (("SEEMLY_VARIANTS", settings.variants), ("SEEMLY_DATA", settings.data)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise UnusableSetting(f"{variable}={folder}: a lab writes there: {error.strerror}") from error


def _work(settings: Settings, health: HealthServer) -> int:
    """Look at everything and work until told to stop; the process's exit code."""
    connection = connect(settings.redis_url)
    try:
        device = choose_device(settings.device)
        lab = Lab(
            model=settings.model_name,
            weights_sha256=check_pin(find_folder(settings.model, settings.model_revision), settings.model_sha256),
        )
        if not settings.allow_unsafe_redis:
            refuse_unsafe(connection)
    except UnusableSetting as error:
        give_up(str(error))
    except UnusableModel as error:
        give_up(f"SEEMLY_MODEL: {error}")
    workshop = Workshop(settings.model, settings.variants, settings.data / "erasures", device)
    metrics = WorkerMetrics()
    with MetricsServer(metrics, settings.metrics_port, settings.metrics_host):
        health.observed = worker = LabWorker(settings, connection, workshop, lab, metrics)
        return worker.run()


if __name__ == "__main__":
    main()
