"""From the queue to a started attempt: the same for every kind of worker."""

from dataclasses import dataclass
from datetime import UTC, datetime

from contract.job import AnyJob
from contract.result import Ended, Status
from workers.ending import Ending
from workers.lifecycle import RqWorker, Ticket
from workers.popping import Unreadable, discard
from workers.records import JobRecords, Started
from workers.results import expired, failed


def why_over(job: AnyJob, started: Started) -> Ended | None:
    """How a started job of any kind ends without being done; None when it is to be done."""
    if started.is_canceled:
        return Ended(status=Status.CANCELED)
    if started.attempt > job.most_attempts:
        return failed("poison_job", f"the job ended its worker {job.most_attempts} times and is not tried again")
    if job.deadline_at is not None and job.deadline_at <= datetime.now(UTC):
        return expired()
    return None


@dataclass(frozen=True)
class Taking:
    """Takes jobs, and ends those that nobody can run."""

    records: JobRecords
    rq: RqWorker
    ending: Ending

    def ticket(self, only: str | None = None) -> Ticket | None:
        """Pop a job, of this function only, and lease it; None when there is none that RQ can read."""
        try:
            return self.rq.take(only)
        except Unreadable as unreadable:
            self.ending.end_without_ticket(unreadable.job_id, failed("invalid_job", "the queued job cannot be read"))
            discard(self.rq.queue, unreadable.job_id)
            return None

    def start(self, ticket: Ticket) -> Started | None:
        """Begin an attempt; None when the job needs none, and then it is over for RQ as well."""
        started = self.records.start(ticket.job_id, starter=ticket.execution.id)
        if isinstance(started, Started):
            return started
        if started.why == "corrupt":
            self.ending.end_corrupt(ticket.job_id)
        self.rq.finish(ticket)
        return None
