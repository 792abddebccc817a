"""Jobs of any kind as Redis keeps them: their records read and parsed, and the two ways in which a gateway ends one."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Self, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.job import AnyJob
from contract.result import Ended, JobError, Status
from service.problems import AlreadyFinished, JobNotFound, RecordDamaged, ResultExpired
from service.queue import JobQueue
from service.silence import Silence

log = logging.getLogger(__name__)

JOB_ID = re.compile(r"[0-9a-f]{32}")
_FIELDS = ["job", "kind", "tenant", "status", "attempt", "started_at", "finished_at", "result"]  # that are read
_CANCELED = Ended(status=Status.CANCELED)
_EXPIRED = Ended(
    status=Status.EXPIRED,
    error=JobError(code="expired", message="The deadline passed before a worker could start this job."),
)

SomeJob = TypeVar("SomeJob", bound=AnyJob)
SomeEnd = TypeVar("SomeEnd", bound=Ended)


@dataclass(frozen=True)
class KeptRecord(ABC, Generic[SomeJob, SomeEnd]):
    """A job's record, parsed."""

    job: SomeJob
    status: Status
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None
    result: SomeEnd | None

    @classmethod
    def parsed(
        cls, fields: Mapping[str, str] | None, job: type[SomeJob], end: type[SomeEnd], **own: Any
    ) -> Self | None:
        """The record; None where there is none, or one that cannot be read. `own` is what its kind adds."""
        if not fields:
            return None
        result = fields.get("result")
        try:
            return cls(
                job=job.model_validate_json(fields["job"]),
                status=Status(fields["status"]),
                attempt=int(fields["attempt"]),
                started_at=_moment(fields.get("started_at")),
                finished_at=_moment(fields.get("finished_at")),
                result=None if result is None else end.model_validate_json(result),
                **own,
            )
        except (KeyError, ValueError) as error:  # pydantic's are among the latter, and quote what they found
            log.error("a job's record cannot be read: %s", type(error).__name__)
            return None

    @property
    @abstractmethod
    def view(self) -> Any:
        """The job as told over HTTP."""

    @property
    def is_overdue(self) -> bool:
        """Whether it still waits although its deadline has passed."""
        deadline = self.job.deadline_at
        return self.status is Status.QUEUED and deadline is not None and datetime.now(UTC) >= deadline


SomeRecord = TypeVar("SomeRecord", bound=KeptRecord[Any, Any])
Reading = Callable[[Mapping[str, str] | None], SomeRecord | None]
ReadingFor = Callable[[str], Awaitable[Reading[SomeRecord]]]  # of a tenant


def alike(reading: Reading[SomeRecord]) -> ReadingFor[SomeRecord]:
    """The same way of reading for every tenant."""

    async def for_tenant(_: str) -> Reading[SomeRecord]:
        return reading

    return for_tenant


class KeptJobs(Generic[SomeRecord]):
    """Reads and ends jobs of one kind; those of another are not found here."""

    def __init__(
        self,
        redis: "Redis",
        silence: Silence,
        queue: JobQueue,
        result_ttl_s: int,
        kind: str,
        readings: ReadingFor[SomeRecord],
    ) -> None:
        self._redis = redis
        self._silence = silence
        self._queue = queue
        self._result_ttl_s = result_ttl_s
        self._kind = kind
        self._readings = readings

    async def read(self, job_id: str, tenant: str) -> SomeRecord:
        """A job of this tenant's; one that still waits past its deadline is ended here and now.

        Raises:
            JobNotFound: also for another tenant's.
            ResultExpired: when its record is no longer kept.
            RecordDamaged: when it is, and cannot be read.
        """
        found = await self._read(job_id, tenant)
        if not found.is_overdue:
            return found
        await run_in_threadpool(self._queue.end_queued, found.job, _EXPIRED, self._result_ttl_s)
        return await self._read(job_id, tenant)

    async def tenant_of(self, job_id: str) -> str | None:
        """Whose job it is; None when nothing is kept of it."""
        if not JOB_ID.fullmatch(job_id):
            return None
        async with self._silence.noticed_in_turn():
            found = await fields_of(self._redis, job_id)
        return found.get("tenant") if found else None

    async def cancel(self, job_id: str, tenant: str) -> SomeRecord:
        """End a waiting job, ask a running one's worker to stop.

        Raises:
            JobNotFound: also for another tenant's.
            AlreadyFinished: when there is nothing left to cancel.
        """
        found = await self.read(job_id, tenant)
        before = await run_in_threadpool(self._queue.cancel, found.job, _CANCELED, self._result_ttl_s)
        if before not in (Status.QUEUED, Status.RUNNING):
            raise AlreadyFinished(f"The job is over already: {before}.")
        return await self._read(job_id, tenant)

    async def _read(self, job_id: str, tenant: str) -> SomeRecord:
        if not JOB_ID.fullmatch(job_id):
            raise JobNotFound
        async with self._silence.noticed_in_turn():
            fields = await fields_of(self._redis, job_id)
        if fields and fields.get("kind", keys.PICTURES) != self._kind:
            raise JobNotFound
        found = (await self._readings(tenant))(fields)
        if found is not None:
            if found.job.tenant != tenant:
                raise JobNotFound
            return found
        async with self._silence.noticed_in_turn():
            was_known = await self._redis.zscore(keys.tenant_jobs_key(tenant, self._kind), job_id) is not None
        if not was_known:
            raise JobNotFound
        raise ResultExpired if fields == {} else RecordDamaged


async def fields_of(redis: "Redis", job_id: str) -> dict[str, str] | None:
    """What is read of a record, {} when there is none; None when something else stands at its key."""
    try:
        read: Any = await redis.hmget(keys.job_key(job_id), _FIELDS)
    except ResponseError as error:
        if not is_no_hash(error):
            raise
        return None
    return {name: value for name, value in zip(_FIELDS, read, strict=True) if value is not None}


def is_no_hash(error: Exception) -> bool:
    """Whether Redis refused because something else than a hash stands there."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def _moment(epoch_s: str | None) -> datetime | None:
    return None if epoch_s is None else datetime.fromtimestamp(float(epoch_s), UTC)
