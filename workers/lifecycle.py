"""A worker of RQ 3.0 that holds many jobs at once. The one file that touches RQ's private methods.

RQ knows a job as a `Ticket`: its own job and the execution that leases it. What the job is, and what becomes of it,
stands in our own record (`contract.record`); RQ carries the id, finds abandoned leases and shows us to `rq info`.

    take → (begin → finish | fail | retry) | release

Nothing that is named in Redis is ever imported: functions are keys of a table of ours, the rest is in
`workers.rq_disarmed`.
"""

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError
from rq import Queue
from rq.exceptions import DeserializationError
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job as RqJob
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.worker.base import BaseWorker, WorkerStatus
from rq.worker_registration import register

from workers.commands import obey
from workers.popping import DEQUEUE_TIMEOUT_S, discard, pop
from workers.rq_disarmed import InertJob, NoDeathPenalty

log = logging.getLogger(__name__)

SECOND_SIGNAL_AFTER_S = 1.0


class JobFailed(Exception):
    """Stands in RQ for a job that was committed as failed; holds a code, never text of the request."""


@dataclass(frozen=True)
class Ticket:
    """A popped job, as RQ knows it."""

    job: InertJob
    execution: Execution

    @property
    def job_id(self) -> str:
        """The id that RQ's job and our record share."""
        return str(self.job.id)

    @property
    def function(self) -> str | None:
        """The name of what is to be done; None when it cannot be read."""
        try:
            return str(self.job.func_name)
        except DeserializationError:
            return None


class RqWorker(BaseWorker):
    """One queue, many executions, leases of our own length. Names are unique per start."""

    death_penalty_class = NoDeathPenalty
    job_class = InertJob

    def __init__(self, queue_name: str, connection: Redis, lease_s: int, on_stop_job: Callable[[str], None]) -> None:
        super().__init__(
            [queue_name],
            name=f"{queue_name}-{uuid4().hex[:12]}",
            connection=connection,
            serializer=JSONSerializer,
            worker_ttl=lease_s + 1,
            log_job_description=False,
        )
        self.queue: Queue = self.queues[0]
        self._lease_s = lease_s + 1  # RQ drops fractions of a second from now, so a lease may last one less
        self._on_stop_job = on_stop_job
        self._state_lock = threading.Lock()

    # Times, shorter than RQ's own

    @property
    def dequeue_timeout(self) -> int:
        """Seconds one wait for a job may take."""
        return DEQUEUE_TIMEOUT_S

    @property
    def connection_timeout(self) -> int:
        """Seconds any command may take."""
        return DEQUEUE_TIMEOUT_S + 4

    def get_heartbeat_ttl(self, job: RqJob, working_time: float = 0.0) -> int:
        """Seconds a job's lease lasts; it does not depend on the job."""
        return self._lease_s

    # A worker's life

    @property
    def stop_was_requested(self) -> bool:
        """A signal or a command asked for the end."""
        return bool(self._stop_requested)

    @property
    def is_suspended(self) -> bool:
        """`rq suspend` is in force; looked up at every heartbeat."""
        return self._state == WorkerStatus.SUSPENDED

    def enlist(self) -> None:
        """Appear in `rq info` with the queue, and listen to commands and signals."""
        self.register_birth()
        self.connection.sadd(self.queue.redis_queues_keys, self.queue.key)
        self.set_state(WorkerStatus.IDLE)
        self.subscribe()
        if threading.current_thread() is threading.main_thread():
            self._install_signal_handlers()

    def retire(self) -> None:
        """Disappear from `rq info`; while Redis fails, not before the entry ends by itself."""
        try:
            self.register_death()
            self.unsubscribe()
        except RedisError:
            log.warning("Redis failed while taking leave")

    def stop_soon(self) -> None:
        """Take no further job."""
        self._stop_requested = True

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """First signal: stop taking jobs. Only sets a flag, since it runs between any two bytecodes."""
        self._stop_requested = True
        self._stop_requested_at = time.monotonic()
        signal.signal(signal.SIGINT, self.request_force_stop)
        signal.signal(signal.SIGTERM, self.request_force_stop)

    def request_force_stop(self, signum: int, frame: FrameType | None) -> None:
        """Another signal: stop now. One within a second is taken for an echo of the first."""
        if time.monotonic() - self._stop_requested_at > SECOND_SIGNAL_AFTER_S:
            raise SystemExit(1)

    # A job's life

    def take(self, only: str | None = None) -> Ticket | None:
        """Pop a job and lease it; None when there is none, or when it is only a second listing of one that runs.

        Args:
            only: the function of those that go first; such a one is not waited for. null: any job

        Raises:
            Unreadable: the job's hash makes no sense; its id stays in the intermediate queue until `discard`.
        """
        job = pop(self.queue, only)
        if job is None:
            return None
        if self._runs_already(job):
            discard(self.queue, job.id)
            return None
        with self._state_lock:
            return Ticket(job, self.prepare_execution(job))

    def _runs_already(self, job: RqJob) -> bool:
        """Whether a lease on this job is alive: RQ's own clean-ups can list an abandoned job more than once."""
        if any(execution.job_id == job.id for execution in list(self.executions.values())):
            return True
        executions = self.connection.zrange(ExecutionRegistry(job.id, self.connection).key, 0, -1)
        if not executions:
            return False
        members = [f"{job.id}:{execution.decode()}" for execution in executions]
        ends = self.connection.zmscore(self.queue.started_job_registry.key, members)
        return any(end is not None and end > time.time() for end in ends)

    def begin(self, ticket: Ticket) -> None:
        """Out of the intermediate queue: from here on the lease alone holds the job."""
        with contextlib.suppress(DeserializationError):  # raised after all is done, by a line that shows the name
            self.prepare_job_execution(ticket.job, True)

    def finish(self, ticket: Ticket) -> None:
        """The job is over."""
        self._finalize_success(ticket.job, self.queue, ticket.execution, None)
        self._settle_state()

    def fail(self, ticket: Ticket, code: str) -> None:
        """The job is over, as a failure that is not tried again."""
        ticket.job.retries_left = 0
        self._finalize_failure(ticket.job, self.queue, ticket.execution, (JobFailed, JobFailed(code), None))
        self._settle_state()

    def retry(self, ticket: Ticket, why: str) -> None:
        """Back into the queue, while RQ's retries last; without any the reaper decides."""
        self.handle_job_failure(ticket.job, self.queue, exc_string=why, execution=ticket.execution)
        self._settle_state()

    def release(self, ticket: Ticket) -> None:
        """Give up the lease and touch nothing else: another attempt owns the job."""
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(ticket.job, pipeline=pipeline, execution=ticket.execution)
            pipeline.execute()
        self._settle_state()

    def forget(self, ticket: Ticket) -> None:
        """Renew the lease no longer, without a word to Redis."""
        self.executions.pop(ticket.execution.id, None)

    def handle_exception(self, job: RqJob, *exc_info: Any) -> None:
        """Log a failure without the job's arguments."""
        log.warning("job %s failed: %s", job.id, exc_info[1])

    def _settle_state(self) -> None:
        with self._state_lock:
            if not self.executions and self._state == WorkerStatus.BUSY:
                self.set_state(WorkerStatus.IDLE)

    # Heartbeats

    def beat(self) -> None:
        """Renew the worker's entry and every lease in one round trip; enlist again when the entry had gone."""
        with self._state_lock, self.connection.pipeline() as pipeline:
            executions = list(self.executions.values())
            self.heartbeat(self._lease_s, pipeline=pipeline)
            pipeline.exists(WORKERS_SUSPENDED)
            for execution in executions:
                execution.heartbeat(self.queue.started_job_registry, self._lease_s, pipeline=pipeline)
            answers = pipeline.execute()
            self._show_state(bool(answers[3]), bool(executions), pipeline)
            if answers[0] == 1:  # the field was new, so the entry had expired
                pipeline.hset(self.key, mapping=self.serialize())
                pipeline.expire(self.key, self._lease_s)
                register(self, pipeline)
                pipeline.sadd(self.queue.redis_queues_keys, self.queue.key)
            pipeline.execute()

    def _show_state(self, is_suspended: bool, is_busy: bool, pipeline: Pipeline) -> None:
        if is_suspended:
            self.set_state(WorkerStatus.SUSPENDED, pipeline=pipeline)
        else:
            self.set_state(WorkerStatus.BUSY if is_busy else WorkerStatus.IDLE, pipeline=pipeline)

    # Commands over pub/sub

    def handle_payload(self, message: Any) -> None:
        """Obey a command."""
        obey(message, list(self.executions.values()), self._on_stop_job)

    def _pubsub_exception_handler(self, exc: Exception, pubsub: Any, pubsub_thread: Any) -> None:
        """Keep listening: redis-py subscribes again once Redis is back."""
        log.warning("the command channel failed (%s); listening again", type(exc).__name__)
        with contextlib.suppress(Exception):
            pubsub.connection.disconnect()
        time.sleep(1)
