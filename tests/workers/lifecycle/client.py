"""What a gateway does to jobs, in the contract's words: accept them, cancel them, read what became of them."""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue, Retry
from rq.serializers import JSONSerializer

from contract import keys, record
from contract.audit import ENTRY, Verdicts
from contract.job import AnyJob, Job, PolicyRef
from contract.plan import SafetyPlan
from contract.policy import Policy, field_of
from contract.request import OutputFormat, Scheduler
from contract.result import Result, Status


def job(prompt: str = "a harbour", *, pictures: int = 1, deadline_s: float | None = None, **changes: Any) -> Job:
    """A job for the paced model."""
    now = datetime.now(UTC)
    fields: dict[str, Any] = {
        "id": uuid4().hex,
        "tenant": "someone",
        "created_at": now,
        "deadline_at": now + timedelta(seconds=deadline_s) if deadline_s is not None else None,
        "model": "paced",
        "prompt": prompt,
        "negative_prompt": "",
        "seeds": tuple(range(pictures)),
        "width": 64,
        "height": 48,
        "steps": 4,
        "guidance_scale": 7.5,
        "scheduler": Scheduler.DDIM,
        "output_format": OutputFormat.PNG,
        "requested": "filter",
        "plan": SafetyPlan.from_short_form("filter"),
        "policy": PolicyRef(id="default", version=1),
    }
    return Job(**(fields | changes))


PATIENCE_S = 60.0  # an upper bound, for machines with other work; what is promised is measured by itself


@dataclass(frozen=True)
class Client:
    """Accepts jobs and follows them. Every job it has accepted is one that must end."""

    redis: Redis

    def queue(self, model: str = "paced") -> Queue:
        """A model's queue."""
        return Queue(keys.queue_name(model), connection=self.redis, serializer=JSONSerializer)

    def put_on_record(self, ref: PolicyRef) -> None:
        """Have the policy that jobs are under known, as a gateway does when it starts."""
        policy = Policy(id=ref.id, version=ref.version)
        self.redis.hsetnx(keys.POLICIES, field_of(ref), policy.model_dump_json())

    def accept(self, wanted: Job, function: str = keys.GENERATE) -> str:
        """Accept a job as the contract says: one MULTI, its policy being on record."""
        self.put_on_record(wanted.policy)
        return self._accept(wanted, function)

    def accept_any(self, *jobs: AnyJob) -> None:
        """Accept jobs that are under no policy."""
        for job in jobs:
            self._accept(job, job.function)

    def _accept(self, wanted: AnyJob, function: str) -> str:
        with self.redis.pipeline() as pipeline:
            self.queue(wanted.model).enqueue_call(
                function,
                job_id=wanted.id,
                retry=Retry(max=3, enqueue_at_front=True),
                failure_ttl=3600,
                result_ttl=3600,
                description="generate",
                pipeline=pipeline,
            )  # first, since RQ opens the transaction itself
            pipeline.hset(keys.job_key(wanted.id), mapping=record.accepted_fields(wanted))
            pipeline.zadd(keys.ACCEPTED, {wanted.id: time.time()})
            pipeline.xadd(keys.events_key(wanted.id), {"type": "queued", "data": "{}"})
            pipeline.execute()
        return wanted.id

    def cancel(self, job_id: str) -> str:
        """Cancel by the contract's script. Returns the status found before."""
        result = Result(status=Status.CANCELED).model_dump_json()
        script = self.redis.register_script(record.CANCEL)
        args = [Status.CANCELED.value, result, repr(time.time()), 3600]
        status: bytes = script(keys=[keys.job_key(job_id), keys.ACCEPTED, keys.events_key(job_id)], args=args)
        return status.decode()

    def status(self, job_id: str) -> Status:
        """A job's status."""
        return Status((self.redis.hget(keys.job_key(job_id), "status") or b"").decode())

    def attempt(self, job_id: str) -> int:
        """How often the job was started."""
        return int(self.redis.hget(keys.job_key(job_id), "attempt") or 0)

    def result(self, job_id: str) -> Result:
        """A terminal job's result."""
        return Result.model_validate_json(self.redis.hget(keys.job_key(job_id), "result") or b"")

    def events(self, job_id: str) -> list[tuple[str, dict[str, Any]]]:
        """A job's events, oldest first."""
        entries = self.redis.xrange(keys.events_key(job_id))
        return [(fields[b"type"].decode(), json.loads(fields[b"data"])) for _, fields in entries]

    def wait_for(self, job_ids: Iterable[str], within_s: float = PATIENCE_S) -> dict[str, Status]:
        """Wait until all of these jobs are terminal, through outages of Redis. Their statuses."""
        wanted, give_up_at = list(job_ids), time.monotonic() + within_s
        while True:
            try:
                statuses = {job_id: self.status(job_id) for job_id in wanted}
                if all(status.is_terminal for status in statuses.values()):
                    return statuses
            except RedisError:
                statuses = {}
            assert time.monotonic() < give_up_at, f"not terminal after {within_s} s: {statuses}"
            time.sleep(0.02)

    def wait_until_started(self, job_id: str, attempt: int = 1, within_s: float = PATIENCE_S) -> None:
        """Wait until a worker runs the job."""
        give_up_at = time.monotonic() + within_s
        while self.attempt(job_id) < attempt:
            assert time.monotonic() < give_up_at, f"attempt {attempt} of {job_id} did not begin"
            time.sleep(0.01)

    def assert_ended_once(self, job_ids: Iterable[str]) -> None:
        """The promise: one terminal state each, told once and on record once, and nothing told after it."""
        on_record = self.on_record()
        for job_id in job_ids:
            kinds = [kind for kind, _ in self.events(job_id)]
            assert kinds.count("finished") == 1, f"{job_id}: {kinds}"
            assert kinds[-1] == "finished", f"{job_id}: {kinds}"
            assert self.result(job_id).status is self.status(job_id)
            assert self.redis.zscore(keys.ACCEPTED, job_id) is None
            images = [picture.verdict for picture in self.result(job_id).images]
            assert [[one.verdict for one in entry.images] for entry in on_record.get(job_id, [])] == [images] * bool(
                images
            )

    def on_record(self) -> dict[str, list[Verdicts]]:
        """What the audits of all tenants have of each job."""
        found: dict[str, list[Verdicts]] = {}
        for tenant in self.redis.smembers(keys.AUDITED):
            for _, fields in self.redis.xrange(keys.audit_key(tenant.decode())):
                if isinstance(entry := ENTRY.validate_json(fields[b"body"]), Verdicts):
                    found.setdefault(entry.job, []).append(entry)
        return found
