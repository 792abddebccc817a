"""Ends of jobs that come to nothing in the engine: the record's, and RQ's after it."""

import logging
from dataclasses import dataclass
from uuid import uuid4

from contract.audit import Verdicts
from contract.policy import Policy
from contract.result import Ended, Status
from workers.lifecycle import RqWorker, Ticket
from workers.metrics import UNREAD, WorkerMetrics
from workers.records import JobRecords, NotStarted, Started
from workers.results import failed

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ending:
    """Commits results for which there is nothing to deliver."""

    records: JobRecords
    rq: RqWorker
    metrics: WorkerMetrics

    def end(
        self,
        ticket: Ticket,
        attempt: int,
        result: Ended,
        mode: str = UNREAD,
        evidence: Verdicts | None = None,
        policy: Policy | None = None,
    ) -> bool:
        """Commit a result that needed no engine, as `JobRecords.commit` does. False when another attempt or a terminal
        status came first."""
        if not self.records.commit(ticket.job_id, attempt, result, evidence, policy):
            self.rq.release(ticket)
            return False
        self.metrics.note_end(mode, result.status)
        if result.status is Status.FAILED and result.error is not None:
            self.rq.fail(ticket, result.error.code)
        else:
            self.rq.finish(ticket)
        return True

    def end_without_ticket(self, job_id: str, result: Ended) -> None:
        """The same for a job that RQ could not read."""
        started = self.records.start(job_id, starter=uuid4().hex)
        if isinstance(started, NotStarted) and started.why == "corrupt":
            self.end_corrupt(job_id)
        if isinstance(started, Started) and self.records.commit(job_id, started.attempt, result):
            self.metrics.note_end(UNREAD, result.status)

    def end_corrupt(self, job_id: str) -> None:
        """End a job whose attempts cannot be counted."""
        log.error("job %s: its record cannot be read", job_id)
        if self.records.end_corrupt(job_id, failed("invalid_job", "the job's record cannot be read")):
            self.metrics.note_end(UNREAD, Status.FAILED)
