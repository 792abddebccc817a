"""From the queue to a started attempt: the same for every kind of worker."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from redis.exceptions import RedisError

from contract.job import AnyJob
from contract.logs import about
from contract.result import Ended, Status
from workers.ending import Ending
from workers.lifecycle import RqWorker, Ticket
from workers.metrics import WorkerMetrics
from workers.popping import Unreadable, discard
from workers.records import JobRecords, Started
from workers.results import expired, failed
from workers.shift import Shift
from workers.trouble import log_error, log_redis_error

PAUSE_S = 1.0  # after trouble


@dataclass(frozen=True)
class Taking:
    """Takes jobs, and ends those that nobody can run."""

    records: JobRecords
    rq: RqWorker
    ending: Ending
    metrics: WorkerMetrics
    shift: Shift
    is_fit: Callable[[], bool]  # whether a job taken now could be done, and would not be lost

    @property
    def is_open(self) -> bool:
        """Whether jobs are taken now."""
        return not self.rq.is_suspended and self.is_fit()

    def one(self, begin: Callable[[Ticket], bool | None], only: str | None = None) -> bool:
        """Take a job, of this function only, and have it begun. Whether `begin` said yes.

        Trouble with it is logged, and must not end the others: its lease ends by itself, and the reaper finds it.
        """
        try:
            if (ticket := self._ticket(only)) is None:
                return False
            with about(job_id=ticket.job_id):
                try:
                    return bool(begin(ticket))
                except Exception:
                    self.rq.forget(ticket)
                    raise
        except RedisError as error:
            log_redis_error("taking a job", error, self.metrics)
        except torch.AcceleratorError as error:  # nothing in this process can run on it again
            log_error("the device is lost; the worker ends", error)
            self.shift.has_failed.set()
            return False
        except Exception as error:  # noqa: BLE001 - as above
            log_error("a job could not be taken", error)
        time.sleep(PAUSE_S)
        return False

    def start(self, ticket: Ticket) -> Started | None:
        """Begin an attempt; None when the job needs none, and then it is over for RQ as well."""
        started = self.records.start(ticket.job_id, starter=ticket.execution.id)
        if isinstance(started, Started):
            return started
        if started.why == "corrupt":
            self.ending.end_corrupt(ticket.job_id)
        self.rq.finish(ticket)
        return None

    def _ticket(self, only: str | None) -> Ticket | None:
        """Pop a job and lease it; None when there is none that RQ can read."""
        try:
            return self.rq.take(only)
        except Unreadable as unreadable:
            self.ending.end_without_ticket(unreadable.job_id, failed("invalid_job", "the queued job cannot be read"))
            discard(self.rq.queue, unreadable.job_id)
            return None


def unknown_function() -> Ended:
    """The end of a job of a kind that this worker does not do."""
    return failed("unknown_function", "the job names a function that this worker does not know")


def why_over(job: AnyJob, started: Started) -> Ended | None:
    """How a started job of any kind ends without being done; None when it is to be done."""
    if started.is_canceled:
        return Ended(status=Status.CANCELED)
    if started.attempt > job.most_attempts:
        return failed("poison_job", f"the job ended its worker {job.most_attempts} times and is not tried again")
    if job.deadline_at is not None and job.deadline_at <= datetime.now(UTC):
        return expired()
    return None
