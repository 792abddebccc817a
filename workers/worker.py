"""A worker at work: five threads between the queue and the engine.

    dispatcher (main)   a free slot → pop → lease → START → `engine.submit`
    engine              `engine.step` in a loop, pictures judged as they come out
    finaliser           encode, store, COMMIT, end the job in RQ; progress events
    keeper              cancellations every second, heartbeats, the reaper
    sweeper             removes pictures whose records are gone; apart, since a slow store must not delay a heartbeat

A thread that fails, and a step of the engine that never ends, end the process; its jobs go back to the queue.
A job begun for the last time runs alone: should it kill its worker again, it takes no neighbour with it.
"""

import contextlib
import logging
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from uuid import uuid4

from obstore.store import ObjectStore
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.job import MAX_ATTEMPTS, Job
from contract.model import ModelInfo
from contract.result import Result, Status
from workers.announce import Announcement
from workers.delivery import Delivery, JobInFlight, PictureEngine, StoreFailed
from workers.engine.picture import Outcome, PictureSpec, Progress
from workers.lifecycle import RqWorker, Ticket, Unreadable
from workers.metrics import WorkerMetrics
from workers.progress import ProgressBoard
from workers.reaper import Reaper
from workers.records import JobRecords, NotStarted, Started
from workers.results import expired, failed, why_refused
from workers.settings import Settings
from workers.sweeper import Sweeper

log = logging.getLogger(__name__)

EXIT_DRAINED = 0
EXIT_CUT_SHORT = 1
EXIT_THREAD_FAILED = 70
THREADS_END_WITHIN_S = 5.0


class Worker:
    """One engine, one queue. `run` returns the process's exit code."""

    def __init__(
        self,
        settings: Settings,
        connection: Redis,
        engine: PictureEngine,
        info: ModelInfo,
        tokenizer_json: bytes,
        store: ObjectStore,
        metrics: WorkerMetrics,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._info = info
        self._metrics = metrics
        self._records = JobRecords(connection, settings.record_ttl_s)
        self._rq = RqWorker(keys.queue_name(info.name), connection, settings.lease_s, on_stop_job=engine.cancel)
        self._announcement = Announcement(connection, info, tokenizer_json, self._rq.name, settings.lease_s)
        self._progress = ProgressBoard(connection)
        self._reaper = Reaper(connection, self._rq.queue, self._records, metrics, info.name, settings.homeless_grace_s)
        self._complete: SimpleQueue[JobInFlight] = SimpleQueue()
        self._delivery = Delivery(info, store, self._records, metrics, on_complete=self._complete.put)
        self._sweeper = Sweeper(store, settings.record_ttl_s + settings.sweep_margin_s)
        self._handlers: dict[str, Callable[[Ticket, Started], bool]] = {keys.GENERATE: self._generate}
        self._in_flight: dict[str, JobInFlight] = {}
        self._slots = threading.Semaphore(settings.slots)
        self._is_closing = threading.Event()
        self._thread_failed = threading.Event()
        self._step_began: float | None = None  # monotonic; None between two steps

    @property
    def name(self) -> str:
        """The worker's name in RQ, unique per start."""
        return str(self._rq.name)

    def stop(self) -> None:
        """Ask for the end, as SIGTERM does."""
        self._rq.stop_soon()

    def run(self) -> int:
        """Work until a signal or a command asks for the end, then finish what is in flight."""
        self._rq.enlist()
        self._announcement.publish()
        self._announcement.renew()
        log.info("worker %s serves %s", self._rq.name, self._info.name)
        loops = (self._drive_engine, self._finalise, self._keep, self._sweep)
        threads = [threading.Thread(target=self._guard, args=[loop], name=loop.__name__, daemon=True) for loop in loops]
        for thread in threads:
            thread.start()
        exit_code = EXIT_CUT_SHORT
        try:
            self._dispatch()
            self._withdraw()
            exit_code = self._drain()
        except SystemExit:
            log.warning("stopped at once; %d jobs go back to the queue", len(self._in_flight))
        finally:
            if exit_code != EXIT_DRAINED:
                self._hand_back()
            self._is_closing.set()
            for thread in threads:
                thread.join(THREADS_END_WITHIN_S)
            self._withdraw()
            with contextlib.suppress(RedisError):  # its entry ends by itself
                self._rq.retire()
        log.info("worker %s ends with exit code %d", self._rq.name, exit_code)
        return exit_code

    def _withdraw(self) -> None:
        with contextlib.suppress(RedisError):  # readiness ends by itself
            self._announcement.withdraw()

    def _guard(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop. However it fails, the process must end and be started anew, never go on without it."""
        try:
            loop()
        except BaseException as error:  # noqa: BLE001
            _log_error(f"{loop.__name__} failed; the worker ends", error)
            self._thread_failed.set()

    # Dispatcher

    def _dispatch(self) -> None:
        while not (self._rq.stop_was_requested or self._thread_failed.is_set()):
            if self._rq.is_suspended or not self._slots.acquire(timeout=0.2):
                time.sleep(0.05)
                continue
            is_taken = False
            try:
                is_taken = self._take_one()
            except RedisError as error:
                self._note_redis_error("taking a job", error)
                time.sleep(1)
            except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
                _log_error("a job could not be taken", error)
                time.sleep(1)
            finally:
                if not is_taken:
                    self._slots.release()

    def _take_one(self) -> bool:
        """Pop one job and hand it to the engine. Whether it holds its slot from now on."""
        try:
            ticket = self._rq.take()
        except Unreadable as unreadable:
            self._end_without_ticket(unreadable.job_id, failed("invalid_job", "the queued job cannot be read"))
            self._rq.discard(unreadable.job_id)
            return False
        if ticket is None:
            return False
        try:
            return self._begin(ticket)
        except Exception:
            self._rq.forget(ticket)  # its lease ends by itself, and the reaper finds it
            if self._in_flight.pop(ticket.job_id, None) is not None:
                self._progress.close(ticket.job_id)
                self._engine.cancel(ticket.job_id)
            raise

    def _begin(self, ticket: Ticket) -> bool:
        [standing] = self._records.standings([ticket.job_id])
        is_last_attempt = standing.attempt >= MAX_ATTEMPTS - 1
        self._rq.begin(ticket)
        if is_last_attempt and not self._wait_until_alone():
            self._rq.retry(ticket, "the worker stops")
            return False
        started = self._records.start(ticket.job_id, starter=ticket.execution.id)
        if isinstance(started, NotStarted):
            if started.why == "corrupt":
                self._end_corrupt(ticket.job_id)
            self._rq.finish(ticket)
            return False
        handler = self._handlers.get(ticket.function or "")
        if handler is None:
            message = "the job names a function that this worker does not know"
            self._end(ticket, started.attempt, failed("unknown_function", message))
            return False
        is_taken = handler(ticket, started)
        if is_taken and is_last_attempt:
            self._wait_until_alone()
        return is_taken

    def _generate(self, ticket: Ticket, started: Started) -> bool:
        """Start a job of POST /generate, or end it at once when there is a reason to."""
        try:
            job = Job.model_validate_json(started.job_json)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, one["loc"])) or "the whole" for one in error.errors()}))
            self._end(ticket, started.attempt, failed("invalid_job", f"the job's record is invalid at: {places}"))
            return False
        if (result := self._reason_not_to_run(job, ticket, started)) is not None:
            self._end(ticket, started.attempt, result)
            return False
        self._in_flight[job.id] = JobInFlight(job, started.attempt, ticket)
        self._metrics.in_flight.set(len(self._in_flight))
        self._progress.open(job, started.attempt)
        for spec in PictureSpec.all_of(job):
            self._engine.submit(spec)
        return True

    def _reason_not_to_run(self, job: Job, ticket: Ticket, started: Started) -> Result | None:
        if job.id != ticket.job_id:
            return failed("invalid_job", "the job's record holds another job")
        if started.is_canceled:
            return Result(status=Status.CANCELED)
        if started.attempt > MAX_ATTEMPTS:
            return failed("poison_job", f"the job ended its worker {MAX_ATTEMPTS} times and is not tried again")
        if job.deadline_at is not None and job.deadline_at <= datetime.now(UTC):
            return expired()
        if (error := why_refused(job, self._info)) is not None:
            return Result(status=Status.FAILED, error=error)
        return None

    def _wait_until_alone(self) -> bool:
        """Wait until nothing is in flight; False when the worker is to end first."""
        while self._in_flight:
            if self._thread_failed.is_set() or self._rq.stop_was_requested:
                return False
            time.sleep(0.02)
        return True

    def _end(self, ticket: Ticket, attempt: int, result: Result) -> None:
        """Commit a result that needed no engine."""
        if not self._records.commit(ticket.job_id, attempt, result):
            self._rq.release(ticket)
            return
        self._metrics.jobs.labels(result.status).inc()
        if result.status is Status.FAILED and result.error is not None:
            self._rq.fail(ticket, result.error.code)
        else:
            self._rq.finish(ticket)

    def _end_without_ticket(self, job_id: str, result: Result) -> None:
        started = self._records.start(job_id, starter=uuid4().hex)
        if isinstance(started, NotStarted) and started.why == "corrupt":
            self._end_corrupt(job_id)
        if isinstance(started, Started) and self._records.commit(job_id, started.attempt, result):
            self._metrics.jobs.labels(result.status).inc()

    def _end_corrupt(self, job_id: str) -> None:
        log.error("job %s: its record cannot be read", job_id)
        if self._records.end_corrupt(job_id, failed("invalid_job", "the job's record cannot be read")):
            self._metrics.jobs.labels(Status.FAILED).inc()

    # Engine

    def _drive_engine(self) -> None:
        while not self._is_closing.is_set():
            self._step_began = time.monotonic()
            events = self._engine.step()
            self._step_began = None
            for event in events:
                self._receive(event)
            if not events and self._engine.is_idle:
                self._engine.wait_for_work(timeout_s=0.2)

    def _receive(self, event: Progress | Outcome) -> None:
        if isinstance(event, Progress):
            self._progress.note(event)
        elif (in_flight := self._in_flight.get(event.spec.job_id)) is not None:
            self._delivery.collect(in_flight, event)

    # Finaliser

    def _finalise(self) -> None:
        next_flush = 0.0
        while True:
            try:
                self._finish(self._complete.get(timeout=self._settings.progress_s))
            except Empty:
                if self._is_closing.is_set():
                    return
            if time.monotonic() >= next_flush:
                next_flush = time.monotonic() + self._settings.progress_s
                try:
                    self._progress.flush()
                except RedisError as error:
                    self._note_redis_error("telling progress", error)

    def _finish(self, in_flight: JobInFlight) -> None:
        """Deliver a complete job and free its slot, whatever happens."""
        job_id, ticket = in_flight.job.id, in_flight.ticket
        self._progress.close(job_id)
        try:
            self._deliver(in_flight)
        except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
            _log_error(f"job {job_id} could not be delivered", error)
            self._rq.forget(ticket)  # its lease ends by itself, and the reaper finds it
        finally:
            self._in_flight.pop(job_id, None)
            self._metrics.in_flight.set(len(self._in_flight))
            self._slots.release()

    def _deliver(self, in_flight: JobInFlight) -> None:
        ticket, attempt = in_flight.ticket, in_flight.attempt
        try:
            result = self._delivery.deliver(in_flight)
        except StoreFailed as error:
            log.error("job %s, attempt %d: %s", in_flight.job.id, attempt, error)
            if attempt < MAX_ATTEMPTS:
                self._rq.retry(ticket, "the store refused a picture")
            else:
                self._end(ticket, attempt, failed("storage_failed", "the pictures could not be stored"))
            return
        if result is None:
            self._rq.release(ticket)
        elif result.status is Status.FAILED:
            self._rq.fail(ticket, result.error.code if result.error else "failed")
        else:
            self._rq.finish(ticket)

    # Keeper

    def _keep(self) -> None:
        next_beat = next_maintenance = 0.0
        while not self._is_closing.wait(self._settings.watch_s):
            if self._engine_hangs():
                log.error("a step of the engine lasts longer than %s s; the worker ends", self._settings.step_limit_s)
                self._thread_failed.set()
                self._withdraw()
                return
            try:
                if time.monotonic() >= next_beat:
                    self._rq.beat()
                    if not self._rq.stop_was_requested:
                        self._announcement.renew()
                    next_beat = time.monotonic() + self._settings.heartbeat_s
                self._watch()
                if time.monotonic() >= next_maintenance:
                    self._reaper.run()
                    next_maintenance = time.monotonic() + self._settings.maintenance_s
            except RedisError as error:
                self._note_redis_error("keeping leases", error)
            except Exception as error:  # noqa: BLE001 - without this thread every lease would end
                _log_error("the keeper stumbled", error)

    def _engine_hangs(self) -> bool:
        began = self._step_began
        return began is not None and time.monotonic() - began > self._settings.step_limit_s

    def _watch(self) -> None:
        """Cancel what was asked to be canceled, and what another attempt or an ending has made pointless."""
        running = list(self._in_flight.values())
        if running:
            standings = self._records.standings([one.job.id for one in running])
            for one, standing in zip(running, standings, strict=True):
                if standing.is_canceled or not standing.is_still(one.attempt):
                    self._engine.cancel(one.job.id)

    # Sweeper

    def _sweep(self) -> None:
        while True:
            self._sweeper.sweep(self._is_closing.is_set)
            if self._is_closing.wait(self._settings.sweep_s):
                return

    # The end

    def _drain(self) -> int:
        """Wait for what is in flight, as long as may be."""
        limit = self._settings.drain_limit_s
        ends_at = time.monotonic() + limit if limit is not None else float("inf")
        log.info("draining: %d jobs in flight", len(self._in_flight))
        while self._in_flight:
            if self._thread_failed.is_set():
                break
            if time.monotonic() > ends_at:
                log.warning("not drained after %s s; %d jobs go back to the queue", limit, len(self._in_flight))
                return EXIT_CUT_SHORT
            time.sleep(0.02)
        return EXIT_THREAD_FAILED if self._thread_failed.is_set() else EXIT_DRAINED

    def _hand_back(self) -> None:
        """Jobs that will not be finished here go back to the queue at once, instead of waiting for their leases."""
        for one in list(self._in_flight.values()):
            try:
                self._rq.retry(one.ticket, "the worker stopped")
            except RedisError as error:
                self._note_redis_error("handing jobs back", error)
                return

    def _note_redis_error(self, doing: str, error: RedisError) -> None:
        self._metrics.redis_errors.inc()
        log.warning("Redis failed while %s: %s", doing, type(error).__name__)


def _log_error(what: str, error: BaseException) -> None:
    """Log where an error arose, without its message: that could quote a request."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", what, type(error).__name__, frames)
