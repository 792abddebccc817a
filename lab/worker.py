"""`python -m lab.worker`: makes erased weights as jobs ask for them, one at a time.

    main thread    pop → lease → START → `lab.erasure.job` → COMMIT
    keeper         heartbeats, cancellations, the reaper: `workers.keeper`, as of every worker

What a worker leaves off, because it was told to end or was killed, the next attempt goes on with; so it does after
trouble that is not the recipe's, such as a full disk. When the last attempt had trouble too, the work is kept.
"""

import logging
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from tempfile import TemporaryFile
from typing import Any, Final

import torch
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.erasure import ErasureJob, ErasureResult, Lab
from contract.exits import give_up
from contract.health import HealthServer
from contract.logs import about, set_up_logs
from contract.redis_safety import RedisSafety
from contract.result import Ended, Status
from contract.wording import settings_wording
from lab.erasure.job import Stopped, Unmakeable, Workshop
from lab.erasure.original import UnusableConcept
from lab.erasure.training import Diverged
from workers.checkpoint import UnusableModel, check_pin, find_folder
from workers.ending import Ending
from workers.keeper import Keeper
from workers.lifecycle import RqWorker, Ticket
from workers.main import UnusableSetting, check_places, choose_device, refuse_unsafe
from workers.metrics import MetricsServer, WorkerMetrics
from workers.progress import tell
from workers.reaper import Reaper
from workers.records import JobRecords, Started, connect
from workers.results import failed
from workers.rq_disarmed import disarm_rq
from workers.settings import Settings
from workers.taking import Taking, why_over
from workers.trouble import log_error, log_redis_error
from workers.variants.writing import UnusableWeights

log = logging.getLogger(__name__)

CODES: Final[
    dict[type[Exception], str]
] = {  # of what a recipe itself may end in, whose messages quote names and settings only
    UnusableConcept: "unusable_concept",
    Diverged: "diverged",
    UnusableWeights: "erasure_failed",
}
TROUBLE: Final = "lab_trouble"
PAUSES_S: Final = (2.0, 60.0)  # after trouble, before the next attempt: twice as long each time, at most so long
EXIT_FAILED: Final = 70
TURNS_WITHIN_S: Final = 1800.0  # one iteration, one batch of pictures measured, or loading the model; on a CPU as well


@dataclass
class Announcement:
    """Tells the gateway that erasures of the model can be made. It stays known when the worker leaves."""

    connection: Redis
    lab: Lab
    redis_safety: RedisSafety
    is_fit: bool = field(default=True, init=False)  # whether jobs taken now would not be lost
    renewed_at: float = field(default=float("-inf"), init=False)  # monotonic

    def renew(self) -> None:
        """Again, should Redis have lost it."""
        self.connection.hset(keys.LABS, self.lab.model, self.lab.model_dump_json())
        self.renewed_at = time.monotonic()

    def look(self) -> None:
        """See whether Redis is safe; no detector judges here."""
        faults = self.redis_safety.faults()
        if faults and self.is_fit:
            log.error("no jobs are taken: %s", "; ".join(faults))
        self.is_fit = not faults

    def withdraw(self) -> None:
        """Nothing: what is accepted meanwhile waits."""


@dataclass(frozen=True)
class InHand:
    """The job that is being done."""

    job: ErasureJob
    attempt: int
    is_stopped: threading.Event = field(default_factory=threading.Event)


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
        self._ending = Ending(self._records, self._rq, metrics)
        self._taking = Taking(self._records, self._rq, self._ending)
        self._in_hand: dict[str, InHand] = {}
        self._is_closing = threading.Event()
        self._has_failed = threading.Event()
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
            is_closing=self._is_closing,
            has_failed=self._has_failed,
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
        keeper = threading.Thread(target=self._keep, name="keeper", daemon=True)
        keeper.start()
        try:
            while not self._must_end:
                self._take_one()
        except SystemExit:
            log.warning("stopped at once; the job in hand comes back when its lease ends")
        finally:
            self._is_closing.set()
            keeper.join(5)
            try:
                self._rq.retire()
            except RedisError:  # its entry ends by itself
                log.warning("Redis failed while taking leave")
        return EXIT_FAILED if self._has_failed.is_set() else 0

    @property
    def _must_end(self) -> bool:
        return self._rq.stop_was_requested or self._has_failed.is_set()

    def _keep(self) -> None:
        try:
            self._keeper.run()
        except BaseException as error:  # noqa: BLE001 - without it every lease would end
            log_error("the keeper failed; the worker ends", error)
            self._has_failed.set()

    def _stop(self, job_id: str) -> None:
        if (one := self._in_hand.get(job_id)) is not None:
            one.is_stopped.set()

    def _take_one(self) -> None:
        self._turned_at = time.monotonic()
        try:
            if self._rq.is_suspended or not self._announcement.is_fit:
                time.sleep(0.2)
            elif (ticket := self._taking.ticket()) is not None:
                with about(job_id=ticket.job_id):
                    self._begin(ticket)
        except RedisError as error:
            log_redis_error("taking a job", error, self._metrics)
            time.sleep(1)
        except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
            log_error("a job could not be taken", error)
            time.sleep(1)

    def _begin(self, ticket: Ticket) -> None:
        try:
            self._rq.begin(ticket)
            if (started := self._taking.start(ticket)) is not None:
                self._end(ticket, started)
        except Exception:
            self._rq.forget(ticket)  # its lease ends by itself, and the reaper finds it
            raise

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
        if is_over and (result.error is None or result.error.code != TROUBLE):
            self._workshop.forget(ticket.job_id)

    def _result(self, ticket: Ticket, started: Started) -> Ended | None:
        """What became of a job; None when it was stopped, or is to be tried again."""
        if ticket.function != keys.ERASE:
            return failed("unknown_function", "the job names a function that this worker does not know")
        try:
            job = ErasureJob.model_validate_json(started.job_json)
        except ValidationError:
            return failed("invalid_job", "the job's record is invalid")
        if job.id != ticket.job_id or job.model != self._announcement.lab.model:
            return failed("invalid_job", "the job's record holds another job")
        if (end := why_over(job, started)) is not None:
            return end
        one = self._in_hand[job.id] = InHand(job, started.attempt)
        try:
            return self._made(one)
        finally:
            del self._in_hand[job.id]

    def _made(self, one: InHand) -> Ended | None:
        try:
            made = self._workshop.make(one.job, lambda data: self._tell(one, data))
        except Stopped:
            return None
        except Unmakeable as error:
            return failed(error.code, str(error))
        except tuple(CODES) as error:
            return failed(next(code for kind, code in CODES.items() if isinstance(error, kind)), str(error))
        except torch.AcceleratorError as error:  # nothing in this process can run on it again
            log_error("the device is lost; the worker ends, and another goes on with the job", error)
            self._has_failed.set()
            return None
        except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
            log_error(f"attempt {one.attempt} at the erasure {one.job.id} failed; its work is kept", error)
            if one.attempt >= one.job.most_attempts:
                return failed(TROUBLE, f"every attempt failed, the last with {type(error).__name__}; see the lab's log")
            self._pause(one)
            return None
        return ErasureResult(status=Status.SUCCEEDED, made=made)

    def _pause(self, one: InHand) -> None:
        """Leave time for what is wrong to be mended."""
        first_s, most_s = PAUSES_S
        over_at = time.monotonic() + min(first_s * 2 ** (one.attempt - 1), most_s)
        while time.monotonic() < over_at and not (one.is_stopped.is_set() or self._must_end):
            time.sleep(0.05)

    def _tell(self, one: InHand, data: Mapping[str, Any]) -> bool:
        """Tell progress, now and then. Whether to go on."""
        self._turned_at = time.monotonic()
        if time.monotonic() - self._told_at >= self._settings.progress_s or data["step"] == data["steps"]:
            self._told_at = time.monotonic()
            try:
                tell(self._connection, one.job.id, one.attempt, data)
            except RedisError as error:
                log_redis_error("telling progress", error, self._metrics)
        return not (one.is_stopped.is_set() or self._must_end)


def main() -> None:
    """Run a lab's worker until it is told to stop; exit code EX_CONFIG over a setting."""
    try:
        settings = Settings()
        check_places(settings)
        check_folders(settings)
    except ValidationError as error:
        give_up(f"the settings cannot be used: {settings_wording(error)}")
    except UnusableSetting as error:
        give_up(str(error))
    set_up_logs(settings.log_level, settings.log_format)
    disarm_rq()
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
