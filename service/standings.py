"""Promoting and retiring variants: a job for a worker of the model, awaited for as long as a person would."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from starlette.concurrency import run_in_threadpool

from contract.acceptance import Terms
from contract.model import VariantInfo, VariantStatus
from contract.result import JobError, Status
from contract.standing import StandingJob, StandingResult
from service.awaiting import End, ended
from service.events import EventStreams
from service.kept import KeptJobs, KeptRecord
from service.models import Catalogue
from service.problems import NotMoved, NotPromoted, VariantNotFound
from service.queue import JobQueue

LONGEST_S = 10.0  # then the job has expired, and nothing was changed
BESIDE_QUEUE = 64  # so many may wait although the queue is full: they take nothing of what it waits for


@dataclass(frozen=True)
class StandingRecord(KeptRecord[StandingJob, StandingResult]):
    """Such a job's record in Redis, parsed."""

    @classmethod
    def read(cls, fields: Mapping[str, str] | None) -> "StandingRecord | None":
        """The record; None where there is none, or one that cannot be read."""
        return cls.parsed(fields, StandingJob, StandingResult)

    @property
    def view(self) -> StandingResult | None:
        """What became of it."""
        return self.result


@dataclass(frozen=True)
class Change:
    """What is to become of a variant; a reason to promote it is one to do so by force."""

    name: str
    status: VariantStatus
    reason: str | None


@dataclass(frozen=True)
class Standings:
    """Changes what becomes of variants."""

    catalogue: Catalogue
    queue: JobQueue
    kept: KeptJobs[StandingRecord]
    events: EventStreams
    queue_limit: int

    async def change(self, tenant: str, model: str | None, change: Change, *ends: End) -> tuple[str, VariantInfo]:
        """Promote or retire a variant. Its model, and the variant as it is then.

        ends: each of them ends the waiting, not what was asked for

        Raises:
            VariantNotFound, NotPromoted: as the worker says.
            NotMoved: no worker has answered in time, or before one of `ends`, or the one that did could not do it.
            Refusal: there is no such model, or its queue is full.
        """
        job = await run_in_threadpool(self._accepted, tenant, model, change)
        record = await ended(self.kept, self.events, job, LONGEST_S, *ends)
        result = record.result if record else None
        await run_in_threadpool(self.catalogue.renew)
        if result is not None and result.variant is not None:
            return job.model, result.variant
        match result.error if result else None:
            case JobError(code="variant_not_found"):
                raise VariantNotFound
            case JobError(code="not_promoted", message=why):
                raise NotPromoted(f"It stays as it is: {why}.")
            case JobError(message=why) if result is not None and result.status is Status.FAILED:
                raise NotMoved(f"A worker could not do it: {why}.", 5)
        raise NotMoved("No worker of the model has done it in time; GET /variants tells how the variant stands.", 5)

    def _accepted(self, tenant: str, model: str | None, change: Change) -> StandingJob:
        info, now = self.catalogue.model(model), datetime.now(UTC)
        if not any(variant.name == change.name for variant in info.variants):
            raise VariantNotFound
        job = StandingJob(
            id=uuid.uuid4().hex,
            tenant=tenant,
            created_at=now,
            deadline_at=now + timedelta(seconds=LONGEST_S),
            model=info.name,
            name=change.name,
            status=change.status,
            reason=change.reason,
        )
        self.queue.accept(job, Terms(queue_limit=self.queue_limit + BESIDE_QUEUE, service_s=None))
        return job
