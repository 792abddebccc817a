"""Jobs as told over HTTP: read from their records, judged once more before any picture is shown."""

import json
import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.job import Job
from contract.plan import SafetyPlan
from contract.rejudging import rejudged
from contract.request import plan_of
from contract.result import JobError, JobView, Picture, Result, Status, status_of
from contract.strictness import shortfalls, strictest
from contract.verdict import ConceptScore, Verdict, decide
from service.policies import Policies
from service.problems import AlreadyFinished, JobNotFound, RecordDamaged, ResultExpired
from service.queue import JobQueue
from service.silence import Silence

log = logging.getLogger(__name__)

_JOB_ID = re.compile(r"[0-9a-f]{32}")
_FIELDS = ["job", "tenant", "status", "attempt", "started_at", "finished_at", "result"]  # of the record, that are read
_MARGIN_TOLERANCE = 0.001  # margins are rounded to 3 digits
_CANCELED = Result(status=Status.CANCELED)
_EXPIRED = Result(
    status=Status.EXPIRED,
    error=JobError(code="expired", message="The deadline passed before a worker could start this job."),
)


@dataclass(frozen=True)
class JobRecord:
    """A job's record in Redis, parsed."""

    job: Job
    status: Status
    attempt: int
    started_at: datetime | None
    finished_at: datetime | None
    result: Result | None
    floor: SafetyPlan  # under which it is read: what was passed once may be withheld by now

    @classmethod
    def from_fields(cls, fields: Mapping[str, str], floor: SafetyPlan) -> "JobRecord":
        """Parse the record's hash."""
        result = fields.get("result")
        return cls(
            job=Job.model_validate_json(fields["job"]),
            status=Status(fields["status"]),
            attempt=int(fields["attempt"]),
            started_at=_moment(fields.get("started_at")),
            finished_at=_moment(fields.get("finished_at")),
            result=None if result is None else Result.model_validate_json(result),
            floor=floor,
        )

    @classmethod
    def read(cls, fields: Mapping[str, str] | None, floor: SafetyPlan) -> "JobRecord | None":
        """The record; None where there is none, or one that cannot be read."""
        if not fields:
            return None
        try:
            return cls.from_fields(fields, floor)
        except (KeyError, ValueError) as error:  # pydantic's are among the latter, and quote what they found
            log.error("a job's record cannot be read: %s", type(error).__name__)
            return None

    @property
    def is_overdue(self) -> bool:
        """Whether it still waits although its deadline has passed."""
        deadline = self.job.deadline_at
        return self.status is Status.QUEUED and deadline is not None and datetime.now(UTC) >= deadline

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures' verdicts, each checked for release."""
        if self.result is None:
            return ()
        return tuple(
            released(picture, self.job.of_picture(picture.index), self.floor) for picture in self.result.images
        )

    @property
    def view(self) -> JobView:
        """The job as told over HTTP."""
        pictures = self.pictures
        withdrawn = self.result is not None and [p.verdict for p in pictures] != [p.verdict for p in self.result.images]
        return JobView(
            id=self.job.id,
            status=status_of(tuple(picture.verdict for picture in pictures)) if withdrawn else self.status,
            created_at=self.job.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            safety=self.result.safety if self.result else None,
            images=pictures,
            comparison=self.result.comparison if self.result else (),
            metrics=self.result.metrics if self.result else None,
            error=self.result.error if self.result else None,
        )


def released(picture: Picture, job: Job, floor: SafetyPlan) -> Picture:
    """A picture as its caller may see it: with an address only when its scores bear out that it passed, also under the
    floor of today."""
    withheld = {"url": None, "signed_url": None, "sha256": None}
    if picture.verdict is not Verdict.PASSED:
        return picture.model_copy(update=withheld)
    if reason := doubt_about(picture, job):
        error = JobError(code="not_released", message=reason)
        return picture.model_copy(update={"verdict": Verdict.ERROR, **withheld, "error": error})
    if shortfalls(job.plan, floor):
        now = rejudged(picture, job.plan.output, strictest(plan_of(job.requested), floor).output)
        if now.verdict is Verdict.ERROR or not (now.verdict is Verdict.PASSED or is_let_pass(now)):
            return now.model_copy(update=withheld)
    if job.uploads:
        return picture.model_copy(update={"url": None, "signed_url": None})
    return picture.model_copy(update={"url": f"/jobs/{job.id}/images/{picture.index}", "signed_url": None})


def doubt_about(picture: Picture, job: Job) -> str | None:
    """Why a picture that was passed may not be shown all the same; None when nothing speaks against it."""
    if picture.sha256 is None:
        return "The picture is not on record as stored."
    if not picture.concepts:
        return "The picture has no scores."
    output = job.plan.output
    demanded = {concept.name for concept in output.concepts} if output else set()
    if missing := demanded - {score.name for score in picture.concepts}:
        return f"The picture was not scored for: {', '.join(sorted(missing))}."
    if not all(map(_is_coherent, picture.concepts)):
        return "A score of the picture contradicts itself."
    if is_let_pass(picture):
        return None
    if decide(picture.concepts, output, is_blurred=picture.blurred).verdict is not Verdict.PASSED:
        return "The picture's scores do not pass the job's safety plan."
    return None


def is_let_pass(picture: Picture) -> bool:
    """Whether a person has let a picture pass, knowing of every concept that was found in it."""
    decided, found = picture.decided, {score.name for score in picture.concepts if score.flagged}
    return decided is not None and decided.verdict is Verdict.PASSED and found <= {*decided.concepts}


def _is_coherent(score: ConceptScore) -> bool:
    if not all(map(math.isfinite, (score.score, score.threshold, score.margin))):
        return False
    if abs(score.score - score.threshold - score.margin) > _MARGIN_TOLERANCE:
        return False
    return score.flagged == (score.margin > 0) or score.special_care


class Jobs:
    """Reads and ends jobs."""

    def __init__(
        self, redis: "Redis", silence: Silence, queue: JobQueue, policies: Policies, result_ttl_s: int
    ) -> None:
        self._policies = policies
        self._redis = redis
        self._silence = silence
        self._queue = queue
        self._result_ttl_s = result_ttl_s

    async def read(self, job_id: str, tenant: str) -> JobRecord:
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
        if not _JOB_ID.fullmatch(job_id):
            return None
        async with self._silence.noticed_in_turn():
            found = await fields_of(self._redis, job_id)
        return found.get("tenant") if found else None

    async def cancel(self, job_id: str, tenant: str) -> JobRecord:
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

    async def _read(self, job_id: str, tenant: str) -> JobRecord:
        if not _JOB_ID.fullmatch(job_id):
            raise JobNotFound
        async with self._silence.noticed_in_turn():
            fields = await fields_of(self._redis, job_id)
        found = JobRecord.read(fields, (await self._policies.in_force(tenant)).floor)
        if found is not None:
            if found.job.tenant != tenant:
                raise JobNotFound
            return found
        async with self._silence.noticed_in_turn():
            was_known = await self._redis.zscore(keys.tenant_jobs_key(tenant), job_id) is not None
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


def finished_event(record: JobRecord) -> str:
    """The data of a `finished` event, for a stream whose own was trimmed away."""
    return json.dumps({"status": record.status.value})


def _moment(epoch_s: str | None) -> datetime | None:
    return None if epoch_s is None else datetime.fromtimestamp(float(epoch_s), UTC)
