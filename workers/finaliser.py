"""The finaliser's thread: complete jobs are delivered and ended in RQ; between them, progress is told."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from redis.exceptions import RedisError

from contract.job import MAX_ATTEMPTS
from contract.logs import about
from contract.result import Status
from workers.delivery import Delivery, JobInFlight, StoreFailed
from workers.ending import Ending
from workers.lifecycle import RqWorker
from workers.metrics import WorkerMetrics
from workers.policies import UnknownPolicy
from workers.progress import ProgressBoard
from workers.results import failed
from workers.trouble import log_error, log_redis_error

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finaliser:
    """Takes what `complete` holds; `on_done` frees a job's slot."""

    complete: SimpleQueue[JobInFlight]
    delivery: Delivery
    ending: Ending
    rq: RqWorker
    progress: ProgressBoard
    metrics: WorkerMetrics
    progress_s: float
    is_closing: threading.Event
    on_done: Callable[[JobInFlight], None]

    def run(self) -> None:
        """Deliver until the worker closes and nothing is left."""
        next_flush = 0.0
        while True:
            try:
                self._finish(self.complete.get(timeout=self.progress_s))
            except Empty:
                if self.is_closing.is_set():
                    return
            if time.monotonic() >= next_flush:
                next_flush = time.monotonic() + self.progress_s
                try:
                    self.progress.flush()
                except RedisError as error:
                    log_redis_error("telling progress", error, self.metrics)

    def _finish(self, in_flight: JobInFlight) -> None:
        """Deliver a complete job and free its slot, whatever happens."""
        job_id, ticket = in_flight.job.id, in_flight.ticket
        self.progress.close(job_id)
        with about(job_id=job_id, request_id=in_flight.job.request_id):
            try:
                self._deliver(in_flight)
            except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
                log_error(f"job {job_id} could not be delivered", error)
                self.rq.forget(ticket)  # its lease ends by itself, and the reaper finds it
            finally:
                self.on_done(in_flight)

    def _deliver(self, in_flight: JobInFlight) -> None:
        ticket, attempt = in_flight.ticket, in_flight.attempt
        try:
            result = self.delivery.deliver(in_flight)
        except StoreFailed as error:
            log.error("job %s, attempt %d: %s", in_flight.job.id, attempt, error)
            if attempt < MAX_ATTEMPTS:
                self.rq.retry(ticket, "the store refused a picture")
            else:
                self.ending.end(ticket, attempt, failed("storage_failed", "the pictures could not be stored"))
            return
        except UnknownPolicy as error:
            self.ending.end(ticket, attempt, failed("policy_unknown", str(error)))
            return
        if result is None:
            self.rq.release(ticket)
            return
        log.info("job %s: %s", in_flight.job.id, result.status)
        if result.status is Status.FAILED:
            self.rq.fail(ticket, result.error.code if result.error else "failed")
        else:
            self.rq.finish(ticket)
