"""Jobs' records in Redis, changed only by the scripts of `contract.record`."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from contract import drift, keys, record
from contract.audit import Verdicts, words_of
from contract.detail import ScoreDetail, telling_of
from contract.job import Job
from contract.policy import Policy
from contract.result import Ended, Picture, Result, Status
from contract.retention import Lifetimes

log = logging.getLogger(__name__)

SERVICE_TIMES_KEPT = 200
PAUSE_S = 1.0

# Redis is full, its disk is full, it is a replica: the same command will be accepted later. Out of a script these come
# as plain errors, so the words count and not the class.
PASSING_REFUSALS = ("OOM", "MISCONF", "READONLY")

Answer = TypeVar("Answer")


def connect(url: str) -> Redis:
    """A client that sits out an outage of about two minutes, and never waits long for an answer that will not come."""
    retry = Retry(ExponentialWithJitterBackoff(base=0.05, cap=1), retries=120)
    return Redis.from_url(url, retry=retry, socket_timeout=5, socket_connect_timeout=2)


def persistently(command: Callable[[], Answer]) -> Answer:
    """Send a command until Redis takes it, however long that is. For what must not be done twice with other values."""
    while True:
        try:
            return command()
        except RedisError as error:
            is_away = isinstance(error, RedisConnectionError | RedisTimeoutError)
            if not is_away and not any(word in str(error) for word in PASSING_REFUSALS):
                raise
            log.warning("Redis does not take a commit (%s); trying again", type(error).__name__)
            time.sleep(PAUSE_S)


@dataclass(frozen=True)
class Started:
    """A job that is this worker's to run."""

    attempt: int
    job_json: str
    is_canceled: bool


@dataclass(frozen=True)
class NotStarted:
    """A job that nobody needs to run: `missing`, the terminal status it has already, or `corrupt`."""

    why: str


@dataclass(frozen=True)
class Standing:
    """What became of a job while a worker ran it."""

    status: str | None
    attempt: int
    is_canceled: bool

    def is_still(self, attempt: int) -> bool:
        """Whether a commit of that attempt would be accepted."""
        return self.status == Status.RUNNING and self.attempt == attempt


class JobRecords:
    """The scripts of `contract.record`, with their keys."""

    def __init__(self, connection: Redis, ttl_s: int, withheld_ttl_s: int = 0) -> None:
        self.connection = connection
        self._ttl_s = ttl_s
        self._most = Lifetimes(ttl_s, max(ttl_s, withheld_ttl_s), math.inf)
        self._start = connection.register_script(record.START)
        self._commit = connection.register_script(record.COMMIT)
        self._end_queued = connection.register_script(record.END_QUEUED)

    def start(self, job_id: str, starter: str) -> Started | NotStarted:
        """Begin an attempt; every start invalidates the attempts before it.

        The client sends a command again when its reply was lost; by the token `starter` it still counts once.
        """
        answer: list[Any] = self._start(keys=_keys(job_id), args=[repr(time.time()), starter])
        if answer[0] == 0:
            return NotStarted(answer[1].decode())
        return Started(int(answer[0]), answer[1].decode(errors="replace"), answer[2] == b"1")

    def commit(
        self,
        job_id: str,
        attempt: int,
        result: Ended,
        verdicts: Verdicts | None = None,
        policy: Policy | None = None,
    ) -> bool:
        """Make the result the job's, put its verdicts on record, tell the webhook as the policy says and keep the
        record as long. False when another attempt or a terminal status came first; then nothing is done.

        A commit whose reply was lost is sent again by the client and refused as the second; so a refusal is checked
        against what the record holds.
        """
        text = result.model_dump_json()
        is_withheld = isinstance(result, Result) and any(picture.kept for picture in result.images)
        lifetimes = policy.retention.within(self._most) if policy else self._most
        ttl_s = int(lifetimes.held_s if is_withheld else lifetimes.results_s)
        telling = telling_of(result, policy.scores if policy else ScoreDetail.NONE)
        args = [attempt, result.status.value, text, repr(time.time()), ttl_s, telling]
        if verdicts is not None:
            args += words_of(verdicts)
        if persistently(lambda: self._commit(keys=_keys(job_id), args=args)):
            return True
        held = persistently(lambda: self.connection.hmget(keys.job_key(job_id), ["attempt", "result"]))
        return held == [str(attempt).encode(), text.encode()]

    def end_corrupt(self, job_id: str, result: Ended) -> bool:
        """End a job whose record counts its attempts in no way that can be read. Whether it was ended here."""
        attempt = self.connection.hget(keys.job_key(job_id), "attempt")
        text, telling = result.model_dump_json(), telling_of(result, ScoreDetail.NONE)
        args = [attempt or b"", result.status.value, text, repr(time.time()), self._ttl_s, telling]
        return bool(self._commit(keys=_keys(job_id), args=args))

    def end_queued(self, job_id: str, result: Ended) -> str:
        """End a job that no worker has started. Returns the status found before, or `missing`."""
        args = [result.status.value, result.model_dump_json(), repr(time.time()), self._ttl_s]
        status: bytes = self._end_queued(keys=_keys(job_id), args=args)
        return status.decode()

    def standings(self, job_ids: Sequence[str]) -> list[Standing]:
        """Where jobs stand, in one round trip. A record that is no hash tells nothing, and disturbs no other."""
        with self.connection.pipeline(transaction=False) as pipeline:
            for job_id in job_ids:
                pipeline.hmget(keys.job_key(job_id), ["status", "attempt", "cancel"])
            rows: list[list[bytes | None] | ResponseError] = pipeline.execute(raise_on_error=False)
        read: list[list[bytes | None]] = [[None, None, None] if isinstance(row, ResponseError) else row for row in rows]
        return [
            Standing(status.decode(errors="replace") if status else None, count_of(attempt), cancel == b"1")
            for status, attempt, cancel in read
        ]

    def note_scores(self, job: Job, pictures: Sequence[Picture]) -> None:
        """Count the scores of pictures that were made, for `contract.drift`."""
        hour = drift.hour_key(job.model, time.time())
        with self.connection.pipeline(transaction=False) as pipeline:
            for field, count in drift.counted(job, pictures).items():
                pipeline.hincrby(hour, field, count)
            pipeline.expire(hour, drift.KEPT_S)
            pipeline.execute()

    def note_service_time(self, seconds: float) -> None:
        """Remember how long a job took, for the gateway's estimates."""
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.lpush(keys.SERVICE_TIMES, f"{seconds:.3f}")
            pipeline.ltrim(keys.SERVICE_TIMES, 0, SERVICE_TIMES_KEPT - 1)
            pipeline.execute()


def count_of(field: bytes | None) -> int:
    """A count as a record holds it; 0 when there is none or it makes no sense."""
    return int(field) if field and field.isdigit() else 0


def _keys(job_id: str) -> list[str]:
    return [keys.job_key(job_id), keys.ACCEPTED, keys.events_key(job_id)]
