"""The gateway's one hand on the queue: all of its RQ and all of its blocking Redis calls.

Acceptance is one script (`contract.acceptance`): the record, its place among the unfinished, the `queued` event and
RQ's own entry are written together or not at all. RQ's fields hold the job's id and a fixed description; the prompt is
in our record only. No call is ever repeated by the client: a caller whose answer is lost repeats the whole request
under its Idempotency-Key.
"""

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import rq.serializers
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry as ClientRetry
from rq import Queue, Retry
from rq.command import send_stop_job_command
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from contract import acceptance, keys, record
from contract.acceptance import Terms
from contract.erasure import Lab
from contract.job import AnyJob
from contract.redis_safety import RedisSafety
from contract.result import Ended
from service.problems import (
    IdempotencyKeyReused,
    NotReady,
    QueueFull,
    TooManyJobs,
    TooManyRefusals,
    TooManyWebhooks,
    TooMuchWork,
    VariantExists,
)
from service.quotas import Unfinished, quota_headers
from service.silence import Silence

log = logging.getLogger(__name__)

# `Job.fetch` unpickles poisoned fields with whatever stands here, also where another serializer is given.
rq.serializers.PickleSerializer = JSONSerializer
rq.serializers.SERIALIZER_ALIASES["pickle"] = JSONSerializer

JOB_TIMEOUT_S = 3600  # of RQ's bookkeeping only; the engine keeps the real limits
RQ_RECORD_TTL_S = 600  # RQ's own fields, once a job is over; ours are kept longer
SERVICE_TIMES_READ = 100
RECENT_S = 0.5
_REFUSED = "Too many prompts of this end user were refused, or pictures blocked; wait."
ASSUMED_SERVICE_S = 2.0  # until a first job has been measured


@dataclass(frozen=True)
class Load:
    """How busy a model's queue is."""

    waiting: int
    popped: int
    in_flight: int
    mean_service_s: float

    @property
    def unfinished(self) -> int:
        """Jobs at any of the three places."""
        return self.waiting + self.popped + self.in_flight

    def finish_s(self, position: int) -> float:
        """Expected seconds until the job at this place of the queue is finished: Little's law, and its own time."""
        return (position - 1) * self.mean_service_s / max(1, self.in_flight) + self.mean_service_s


@dataclass(frozen=True)
class Standing:
    """A job that is accepted, now or by an earlier request with the same Idempotency-Key."""

    id: str
    created_at: datetime
    position: int | None = None  # in the queue, from 1; None of an earlier request's
    model: str = ""
    unfinished: Unfinished | None = None  # of its tenant, this one among them; None of an earlier request's

    @property
    def is_new(self) -> bool:
        """Whether this very request made it."""
        return self.position is not None


class JobQueue:
    """Blocking; call it from a thread. Raises `redis.exceptions.RedisError` within the timeout when Redis is away."""

    def __init__(
        self, redis_url: str, timeout_s: float, silence: Silence | None = None, *, allow_unsafe_redis: bool = False
    ) -> None:
        self._redis = Redis.from_url(
            redis_url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=ClientRetry(NoBackoff(), 0),
            protocol=2,
        )
        self._safety = RedisSafety(self._redis, allow_unsafe_redis)
        self._accept = self._redis.register_script(acceptance.ACCEPT)
        self._queues: dict[str, Queue] = {}
        self._templates: dict[tuple[str, str], dict[str, Any]] = {}
        self._recent: dict[str, tuple[float, Load]] = {}
        self._silence = silence or Silence()

    def close(self) -> None:
        """Give the connections back."""
        self._redis.close()

    def announced(self) -> dict[str, bytes]:
        """`ModelInfo` JSON by model name, as the workers wrote it."""
        with self._silence.noticed():
            announced: dict[Any, Any] = self._redis.hgetall(keys.MODELS)
        return {name.decode(): info for name, info in announced.items()}

    def tokenizer(self, sha256: str) -> bytes | None:
        """The bytes of a `tokenizer.json`, when a worker has announced them."""
        with self._silence.noticed():
            found = self._redis.get(keys.tokenizer_key(sha256))
        return found if isinstance(found, bytes) else None

    def lab(self, model: str) -> Lab | None:
        """What the model's lab worker has announced."""
        with self._silence.noticed():
            found: Any = self._redis.hget(keys.LABS, model)
        try:
            return Lab.model_validate_json(found) if found else None
        except ValueError:  # a worker of another version
            log.warning("the lab of model %s is announced in a form unknown here", model)
            return None

    def load(self, model: str) -> Load:
        """How busy a model's queue is, by counting only: RQ's own counts also repair, which is the workers' to do."""
        name = keys.queue_name(model)
        with self._silence.noticed(), self._redis.pipeline(transaction=False) as pipe:
            pipe.llen(f"rq:queue:{name}")
            pipe.llen(f"rq:queue:{name}:intermediate")
            pipe.zcard(f"rq:wip:{name}")
            pipe.lrange(keys.SERVICE_TIMES, 0, SERVICE_TIMES_READ - 1)
            waiting, popped, in_flight, times = pipe.execute()
        mean_s = sum(map(float, times)) / len(times) if times else ASSUMED_SERVICE_S
        return Load(waiting=waiting, popped=popped, in_flight=in_flight, mean_service_s=mean_s)

    def may_sign(self, tenant: str) -> bool:
        """Whether a tenant has a secret to sign its webhooks with; it is never without one afterwards."""
        with self._silence.noticed():
            return bool(self._redis.hexists(keys.SIGNING_SECRETS, tenant))

    def recent_load(self, model: str) -> Load:
        """The same a moment ago, for estimates; at most `RECENT_S` old."""
        read_at, load = self._recent.get(model, (-RECENT_S, None))
        if load is None or time.monotonic() - read_at >= RECENT_S:
            load = self.load(model)
            self._recent[model] = time.monotonic(), load
        return load

    def replayed(self, tenant: str, key: str, fingerprint: str) -> Standing | None:
        """The job that an Idempotency-Key stands for.

        Raises:
            IdempotencyKeyReused: when it came with another request.
        """
        with self._silence.noticed():
            found: Any = self._redis.hmget(keys.idempotency_key(tenant, key), ["fingerprint", "job", "created_at"])
        kept, job_id, created_at = found
        if kept is None:
            return None
        if kept.decode() != fingerprint:
            raise IdempotencyKeyReused
        return Standing(job_id.decode(), datetime.fromisoformat(created_at.decode()))

    def remember(self, tenant: str, key: str, fingerprint: str, ttl_s: int) -> None:
        """Let an Idempotency-Key stand for a request that makes no job.

        Raises:
            IdempotencyKeyReused: when it came with another request.
        """
        with self._silence.noticed():
            found: Any = self._redis.register_script(acceptance.REMEMBER)(
                keys=[keys.idempotency_key(tenant, key)], args=[fingerprint, ttl_s]
            )
        if found.decode() != fingerprint:
            raise IdempotencyKeyReused

    def forget(self, tenant: str, key: str, job_id: str) -> None:
        """Let an Idempotency-Key stand for nothing again, if it stands for this job, which came to nothing."""
        with self._silence.noticed():
            self._redis.register_script(acceptance.FORGET)(keys=[keys.idempotency_key(tenant, key)], args=[job_id])

    def accept(self, job: AnyJob, terms: Terms) -> Standing:
        """Put a job on record and in the queue, or find what it is refused for, in one script.

        Raises:
            NotReady: Redis might lose it.
            Refusal: when it is one too many, of whatever kind; nothing was written.
        """
        with self._silence.noticed():
            if faults := self._safety.faults():
                raise NotReady(f"{'; '.join(faults)}.", 30)
            what, *more = self._accept(
                keys=acceptance.keys_of(job, terms),
                args=acceptance.arguments_of(job, terms, self._rq_fields(job)),
            )
        service_s = terms.service_s or ASSUMED_SERVICE_S
        match what.decode():
            case "accepted":
                return Standing(job.id, job.created_at, more[0], job.model, Unfinished(more[1], int(more[2])))
            case "replay":
                return Standing(more[0].decode(), datetime.fromisoformat(more[1].decode()))
            case "reused":
                raise IdempotencyKeyReused
            case "queue_full":
                wait_s = more[0] * service_s / max(1, terms.in_flight)
                raise QueueFull(f"{more[0]} jobs are waiting already; try again later.", wait_s)
            case "claimed":
                raise VariantExists(f"The erasure {more[0].decode()} is making a variant of this name.")
            case "jobs":
                detail = f"{more[0]} of your jobs are unfinished, as many as may be."
                raise TooManyJobs(detail, service_s, quota_headers(terms, Unfinished(more[0], int(more[1]))))
            case "cost":
                detail = (
                    f"Your unfinished jobs take {int(more[1])} pixel-steps, this one {job.cost} more; {terms.cost}"
                    " may be unfinished at once."
                )
                raise TooMuchWork(detail, service_s, quota_headers(terms, Unfinished(more[0], int(more[1]))))
            case "webhooks":
                raise TooManyWebhooks(f"{more[0]} of your webhooks could not be delivered yet: mend the receiver.", 60)
            case _:
                raise TooManyRefusals(_REFUSED, more[0])

    def count_refusal(self, tenant: str, end_user: str, most: int | None) -> None:
        """Count a refused prompt of an end user's as if it were a blocked picture.

        Raises:
            TooManyRefusals: as many were counted before as may be.
        """
        key = keys.refusals_key(tenant, end_user)
        with self._silence.noticed():
            counted, left_s = self._redis.register_script(record.COUNT_REFUSAL)(keys=[key])
        if most is not None and counted > most:
            raise TooManyRefusals(_REFUSED, left_s)

    def _rq_fields(self, job: AnyJob) -> dict[str, Any]:
        """RQ's own hash of a job, as its `Job.to_dict` has it. Jobs differ in the moment only, so it is asked once."""
        queue, function = job.queue, job.function
        if (queue, function) not in self._templates:
            rq_job = self._queue(queue).create_job(
                function,
                description=function,
                timeout=JOB_TIMEOUT_S,
                result_ttl=RQ_RECORD_TTL_S,
                failure_ttl=RQ_RECORD_TTL_S,
                retry=Retry(max=job.most_attempts, enqueue_at_front=True),
            )
            rq_job.enqueued_at = job.created_at
            self._templates[queue, function] = rq_job.to_dict()
        moment = utcformat(job.created_at)
        return self._templates[queue, function] | {"created_at": moment, "enqueued_at": moment}

    def end_queued(self, job: AnyJob, result: Ended, ttl_s: int) -> str:
        """End a job that nobody has started. Returns the status found: only `queued` means that it was ended."""
        return self._change(record.END_QUEUED, job, result, ttl_s)

    def cancel(self, job: AnyJob, result: Ended, ttl_s: int) -> str:
        """End a queued job, or ask the worker of a running one to stop. Returns the status found before."""
        found = self._change(record.CANCEL, job, result, ttl_s)
        if found == "running":
            # The flag in the record is what counts; this only makes it quicker.
            with suppress(NoSuchJobError, InvalidJobOperation), self._silence.noticed():
                send_stop_job_command(self._redis, job.id, serializer=JSONSerializer)
        return found

    def _change(self, script: str, job: AnyJob, result: Ended, ttl_s: int) -> str:
        touched = [keys.job_key(job.id), keys.ACCEPTED, keys.events_key(job.id)]
        arguments = [result.status.value, result.model_dump_json(), repr(time.time()), ttl_s]
        with self._silence.noticed():
            found: bytes = self._redis.register_script(script)(keys=touched, args=arguments)
            if found == b"queued" and self._queue(job.queue).remove(job.id):
                # Only what was still waiting: a worker that has popped it clears up itself.
                self._redis.delete(QueuedJob.key_for(job.id))
        return found.decode()

    def _queue(self, name: str) -> Queue:
        if name not in self._queues:
            self._queues[name] = Queue(name, connection=self._redis, serializer=JSONSerializer)
        return self._queues[name]
