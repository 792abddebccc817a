"""Finds accepted jobs that nobody will ever finish, and gives them back to the queue or ends them.

Every accepted job is in `keys.ACCEPTED` until it is terminal. Such a job is well when its id is waiting in the queue or
when a lease on it is alive. Each move from one place to the next is atomic, so a job seen nowhere is lost:

    popped, and its worker was killed before leasing it      stays in the intermediate queue → queued again
    its lease ended                                          RQ's own clean-up queues it again, or fails it for good
    its hash in RQ is gone, failed or canceled               queued again while attempts remain, else failed as `lost`
    its deadline passed while it waited                      expired

What looks lost has to look so twice, some time apart, before anything is done. One reaper per queue runs at a time.
"""

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from redis import Redis
from redis.exceptions import LockError, ResponseError
from rq import Queue, Retry
from rq.job import Job as RqJob
from rq.registry import clean_registries
from rq.worker_registration import clean_worker_registry

from contract import keys
from contract.job import MAX_ATTEMPTS
from contract.result import Status
from workers.metrics import WorkerMetrics
from workers.records import JobRecords, count_of
from workers.results import expired, failed

log = logging.getLogger(__name__)

LOCK_S = 20
PER_ROUND_TRIP = 500
RQ_TTL_S = 3600
TERMINAL = frozenset(status.value for status in Status if status.is_terminal)

# KEYS = intermediate queue, queue; ARGV = id. Puts a popped id back at the front, once.
_PUT_BACK = "if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 1 then redis.call('LPUSH', KEYS[2], ARGV[1]) end"


@dataclass(frozen=True)
class Places:
    """Where ids are, at one moment."""

    accepted: frozenset[str]
    waiting: frozenset[str]
    popped: frozenset[str]
    leased: frozenset[str]


@dataclass(frozen=True)
class Accepted:
    """What stands about an accepted job."""

    job_id: str
    status: str | None
    attempt: int
    deadline_at: float | None
    queue: str | None  # of RQ's job, or the record's own where that is gone; None: neither can be read
    function: str


@dataclass
class Reaper:
    """Looks after one queue. Remembers when it first saw a job out of place."""

    connection: Redis
    queue: Queue
    records: JobRecords
    metrics: WorkerMetrics
    grace_s: float
    most_attempts: int = MAX_ATTEMPTS
    _first_seen: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        """One round; nothing when another reaper of this queue is at work."""
        lock = self.connection.lock(f"{keys.PREFIX}reaper:{self.queue.name}", timeout=LOCK_S, blocking=False)
        if not lock.acquire():
            return
        try:
            clean_registries(self.queue)
            clean_worker_registry(self.queue)
            self._reap(self._places())
        finally:
            with contextlib.suppress(LockError):
                lock.release()

    def _places(self) -> Places:
        """One consistent look at all places."""
        with self.connection.pipeline() as pipeline:
            pipeline.zrange(keys.ACCEPTED, 0, -1)
            pipeline.lrange(self.queue.key, 0, -1)
            pipeline.lrange(self.queue.intermediate_queue_key, 0, -1)
            pipeline.zrangebyscore(self.queue.started_job_registry.key, time.time(), "+inf")
            accepted, waiting, popped, leases = pipeline.execute()
        return Places(
            frozenset(map(bytes.decode, accepted)),
            frozenset(map(bytes.decode, waiting)),
            frozenset(map(bytes.decode, popped)),
            frozenset(lease.decode().rpartition(":")[0] for lease in leases),
        )

    def _reap(self, places: Places) -> None:
        out_of_place = set(places.popped)
        for job in self._look_up(places.accepted):
            if job.status is None or job.status in TERMINAL:
                self.connection.zrem(keys.ACCEPTED, job.job_id)
            elif job.status == Status.QUEUED and job.deadline_at is not None and job.deadline_at < time.time():
                self.records.end_queued(job.job_id, expired())
                log.info("job %s: expired while it waited", job.job_id)
                self.metrics.recovered.labels("expired").inc()
            elif job.job_id not in places.waiting | places.popped | places.leased and self._is_ours(job):
                out_of_place.add(job.job_id)
                if self._is_due(job.job_id):
                    self._rescue(job)
        for job_id in places.popped - places.leased:
            if self._is_due(job_id):
                self._put_back(job_id, is_wanted=job_id in places.accepted)
        for job_id in places.popped & places.leased:
            self._first_seen.setdefault(job_id, time.monotonic())
        self._first_seen = {job_id: at for job_id, at in self._first_seen.items() if job_id in out_of_place}

    def _look_up(self, job_ids: Iterable[str]) -> Iterator[Accepted]:
        ordered = sorted(job_ids)
        for some in (ordered[i : i + PER_ROUND_TRIP] for i in range(0, len(ordered), PER_ROUND_TRIP)):
            with self.connection.pipeline(transaction=False) as pipeline:
                for job_id in some:
                    pipeline.hmget(keys.job_key(job_id), ["status", "attempt", "deadline_at", "queue", "function"])
                    pipeline.hget(RqJob.key_for(job_id), "origin")
                answers = pipeline.execute(raise_on_error=False)
            for job_id, record, queue in zip(some, answers[::2], answers[1::2], strict=True):
                # One that is no hash can be read by nobody: as good as gone, and no reason to lose sight of the others.
                fields = [None] * 5 if isinstance(record, ResponseError) else record
                status, attempt, deadline, own_queue, function = fields
                queue = own_queue if queue is None or isinstance(queue, ResponseError) else queue
                yield Accepted(
                    job_id,
                    status.decode(errors="replace") if status else None,
                    count_of(attempt),
                    _time_of(deadline),
                    queue.decode(errors="replace") if queue else None,
                    function.decode(errors="replace") if function else keys.GENERATE,
                )

    def _is_ours(self, job: Accepted) -> bool:
        """Whether the job belongs in this queue. One that tells no queue is as much ours as anyone's to end."""
        return job.queue in (None, self.queue.name)

    def _is_due(self, job_id: str) -> bool:
        return time.monotonic() - self._first_seen.setdefault(job_id, time.monotonic()) >= self.grace_s

    def _put_back(self, job_id: str, *, is_wanted: bool) -> None:
        if not is_wanted:
            self.connection.lrem(self.queue.intermediate_queue_key, 1, job_id)
        elif self.connection.exists(RqJob.key_for(job_id)):
            self.connection.eval(_PUT_BACK, 2, self.queue.intermediate_queue_key, self.queue.key, job_id)
            self._note(job_id, "queued")
        else:
            self.connection.lrem(self.queue.intermediate_queue_key, 1, job_id)  # next time it is seen nowhere

    def _rescue(self, job: Accepted) -> None:
        """A lost job: tried again while attempts remain, else ended."""
        if job.attempt < self.most_attempts:
            self.queue.failed_job_registry.remove(job.job_id)
            self.queue.enqueue_call(
                job.function,
                job_id=job.job_id,
                retry=Retry(max=self.most_attempts, enqueue_at_front=True),
                at_front=True,  # it has waited its turn
                description=job.function,
                result_ttl=RQ_TTL_S,
                failure_ttl=RQ_TTL_S,
            )
            self._note(job.job_id, "queued")
            return
        result = failed("lost", f"the job was lost {job.attempt} times and is not tried again")
        if job.status == Status.QUEUED:
            self.records.end_queued(job.job_id, result)
        else:
            self.records.commit(job.job_id, job.attempt, result)
        self._note(job.job_id, "lost")

    def _note(self, job_id: str, end: str) -> None:
        log.warning("job %s: found abandoned; %s", job_id, end)
        self.metrics.recovered.labels(end).inc()


def _time_of(field: bytes | None) -> float | None:
    """Epoch seconds as a record holds them; None when there are none or they make no sense."""
    try:
        return float(field) if field else None
    except ValueError:
        return None
