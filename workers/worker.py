"""A worker at work: five threads between the queue and the engine.

    dispatcher (main)   a free slot → pop → lease → START → `engine.submit`
    engine              `engine.step` in a loop, pictures judged as they come out
    finaliser           encode, store, COMMIT, end the job in RQ; progress events
    keeper              cancellations every second, heartbeats, the reaper
    sweeper             deletes what is over its time; apart, since a slow store must not delay a heartbeat

A thread that fails, and a step of the engine that never ends, end the process; its jobs go back to the queue.
A job begun for the last time runs alone: should it kill its worker again, it takes no neighbour with it.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

import torch
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.job import MAX_ATTEMPTS, Job
from contract.logs import about
from contract.model import ModelInfo
from contract.redis_safety import RedisSafety
from contract.retention import Lifetimes
from contract.tracing import Tracing
from workers.announce import Announcement
from workers.beginning import Beginning
from workers.delivery import Delivery, JobInFlight, PictureEngine, Stores
from workers.ending import Ending
from workers.engine.picture import Outcome, PictureSpec, Progress
from workers.engine.weights import ErasedWeights
from workers.finaliser import Finaliser
from workers.forgetting import Forgetting
from workers.keeper import Keeper
from workers.lifecycle import RqWorker, Ticket
from workers.marking import Marking
from workers.metrics import WorkerMetrics, mode_of
from workers.policies import PolicyReader
from workers.progress import ProgressBoard
from workers.readiness import Detectors, Readiness
from workers.reading import read
from workers.reaper import Reaper
from workers.records import JobRecords, Started
from workers.results import failed
from workers.settings import Settings
from workers.taking import Taking
from workers.trouble import log_error, log_redis_error
from workers.uploads import UploadGone, Uploads
from workers.variants.moving import moved
from workers.variants.reading import UnusableVariant
from workers.variants.shelf import NoRoom, VariantShelf

log = logging.getLogger(__name__)

EXIT_DRAINED = 0
EXIT_CUT_SHORT = 1
EXIT_THREAD_FAILED = 70
THREADS_END_WITHIN_S = 5.0
LOOKS_WHEN_ALONE = 10  # for memory: a job's is free a moment after it has left
TURNS_WITHIN_S = 10.0  # of the engine's loop, beside its steps


class Worker:
    """One engine, one queue. `run` returns the process's exit code."""

    def __init__(
        self,
        settings: Settings,
        connection: Redis,
        engine: PictureEngine,
        info: ModelInfo,
        tokenizer_json: bytes,
        stores: Stores,
        metrics: WorkerMetrics,
        variants: VariantShelf | None = None,
        detectors: Detectors | None = None,
        tracing: Tracing | None = None,
        marking: Marking | None = None,
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._info = info
        self._variants = variants
        self._detectors = detectors
        self._metrics = metrics
        self._records = JobRecords(connection, settings.record_ttl_s, settings.withheld_keep_s)
        self._uploads = Uploads(connection)
        self._rq = RqWorker(keys.queue_name(info.name), connection, settings.lease_s, on_stop_job=engine.cancel)
        announcement = Announcement(connection, info, tokenizer_json, self._rq.name, settings.lease_s, variants)
        safety = RedisSafety(connection, settings.allow_unsafe_redis)
        self._readiness = Readiness(announcement, metrics, safety, detectors)
        self._progress = ProgressBoard(connection)
        self._in_flight: dict[str, JobInFlight] = {}
        self._leaving = threading.Lock()  # a job is taken again while its attempt before still leaves
        self._slots = threading.Semaphore(settings.slots)
        self._is_closing = threading.Event()
        self._thread_failed = threading.Event()
        self._step_began: float | None = None  # monotonic; None between two steps
        self._turned_at = time.monotonic()  # when the engine's loop last began anew
        # Compares and moderations are the same to run: the job itself tells its pictures' plans, or its uploads.
        self._handlers: dict[str, Callable[[Ticket, Started], bool]] = {
            keys.GENERATE: self._generate,
            keys.COMPARE: self._generate,
            keys.MODERATE: self._generate,
            keys.MOVE: self._move_variant,
            keys.READ: self._read,
        }
        complete: SimpleQueue[JobInFlight] = SimpleQueue()
        policies = PolicyReader(connection, settings.floor)
        self._beginning = Beginning(info, policies, detectors, metrics)
        self._delivery = Delivery(info, stores, self._records, policies, metrics, complete.put, tracing, marking)
        self._ending = Ending(self._records, self._rq, metrics)
        self._taking = Taking(self._records, self._rq, self._ending)
        self._finaliser = Finaliser(
            complete,
            self._delivery,
            self._ending,
            self._rq,
            self._progress,
            metrics,
            settings.progress_s,
            self._is_closing,
            on_done=self._free,
        )
        self._keeper = Keeper(
            settings,
            self._rq,
            self._readiness,
            Reaper(connection, self._rq.queue, self._records, metrics, settings.homeless_grace_s),
            self._records,
            engine.cancel,
            metrics,
            self._in_flight,
            step_began=lambda: self._step_began,
            is_closing=self._is_closing,
            has_failed=self._thread_failed,
        )
        most = Lifetimes(settings.record_ttl_s, settings.withheld_keep_s, settings.audit_keep_s)
        self._forgetting = Forgetting(connection, stores, policies, most, settings.sweep_margin_s)

    @property
    def name(self) -> str:
        """The worker's name in RQ, unique per start."""
        return str(self._rq.name)

    @property
    def is_alive(self) -> bool:
        """Whether the engine's loop turns: no step lasts longer than may be, and its thread is there."""
        return time.monotonic() - self._turned_at <= self._settings.step_limit_s + TURNS_WITHIN_S

    @property
    def is_ready(self) -> bool:
        """Whether the gateway counts on this worker: its lease was renewed in time, and it is not told to end."""
        renewed_at = self._readiness.announcement.renewed_at
        return renewed_at is not None and time.monotonic() - renewed_at < self._settings.lease_s

    def stop(self) -> None:
        """Ask for the end, as SIGTERM does."""
        self._rq.stop_soon()

    def run(self) -> int:
        """Work until a signal or a command asks for the end, then finish what is in flight."""
        self._rq.enlist()
        self._readiness.announcement.publish()
        self._readiness.renew()
        log.info("worker %s serves %s", self._rq.name, self._info.name)
        loops: dict[str, Callable[[], None]] = {
            "engine": self._drive_engine,
            "finaliser": self._finaliser.run,
            "keeper": self._keeper.run,
            "sweeper": self._sweep,
        }
        threads = [threading.Thread(target=self._guard, args=loop, name=loop[0], daemon=True) for loop in loops.items()]
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
            self._readiness.withdraw()

    def _guard(self, name: str, loop: Callable[[], None]) -> None:
        """Run a thread's loop. However it fails, the process must end and be started anew, never go on without it."""
        try:
            loop()
        except BaseException as error:  # noqa: BLE001
            log_error(f"the {name} failed; the worker ends", error)
            self._thread_failed.set()

    # Dispatcher

    def _dispatch(self) -> None:
        while not (self._rq.stop_was_requested or self._thread_failed.is_set()):
            if self._rq.is_suspended or not self._readiness.is_fit:
                time.sleep(0.05)
                continue
            has_slot, is_taken = self._slots.acquire(timeout=0.2), False
            try:
                is_taken = self._take_one(only=None if has_slot else keys.MOVE)
            except RedisError as error:
                log_redis_error("taking a job", error, self._metrics)
                time.sleep(1)
            except torch.AcceleratorError as error:  # nothing in this process can run on it again
                log_error("the device is lost; the worker ends", error)
                self._thread_failed.set()
            except Exception as error:  # noqa: BLE001 - one job's trouble must not end the others
                log_error("a job could not be taken", error)
                time.sleep(1)
            finally:
                if has_slot and not is_taken:
                    self._slots.release()

    def _take_one(self, only: str | None = None) -> bool:
        """Pop one job and hand it to the engine. Whether it holds its slot from now on.

        While no slot is free, only what needs none is taken: a variant is retired, however busy the worker is.
        """
        if (ticket := self._taking.ticket(only)) is None:
            return False
        try:
            with about(job_id=ticket.job_id):
                return self._begin(ticket)
        except Exception:
            self._rq.forget(ticket)  # its lease ends by itself, and the reaper finds it
            if self._in_flight.pop(ticket.job_id, None) is not None:
                self._metrics.in_flight.set(len(self._in_flight))
                self._progress.close(ticket.job_id)
                self._engine.cancel(ticket.job_id)
            raise

    def _begin(self, ticket: Ticket) -> bool:
        [standing] = self._records.standings([ticket.job_id])
        is_last_attempt = standing.attempt >= MAX_ATTEMPTS - 1
        self._rq.begin(ticket)
        if not self._readiness.is_fit:  # since it was asked for
            self._rq.retry(ticket, "the worker may take none now")
            return False
        if is_last_attempt and not self._wait_until_alone():
            self._rq.retry(ticket, "the worker stops")
            return False
        if (started := self._taking.start(ticket)) is None:
            return False
        handler = self._handlers.get(ticket.function or "")
        if handler is None:
            message = "the job names a function that this worker does not know"
            self._ending.end(ticket, started.attempt, failed("unknown_function", message))
            return False
        is_taken = handler(ticket, started)
        if is_taken and is_last_attempt:
            self._wait_until_alone()
        return is_taken

    def _generate(self, ticket: Ticket, started: Started) -> bool:
        """Start a job of POST /generate, /compare or /moderate, or end it at once when there is a reason to."""
        try:
            job = Job.model_validate_json(started.job_json)
        except ValidationError as error:
            places = ", ".join(sorted({".".join(map(str, one["loc"])) or "the whole" for one in error.errors()}))
            result = failed("invalid_job", f"the job's record is invalid at: {places}")
            self._ending.end(ticket, started.attempt, result)
            return False
        outlook = self._beginning.of(job, ticket.job_id, started)
        if outlook.end is not None:
            self._ending.end(ticket, started.attempt, outlook.end, mode_of(job), outlook.evidence, outlook.policy)
            return False
        try:
            if job.uploads:
                specs = PictureSpec.uploaded(job, self._uploads.of(job))
            elif (variants := self._variants_of(job)) is not None:
                specs = PictureSpec.all_of(job, variants)
            else:
                self._rq.retry(ticket, "the worker stops")
                return False
        except UploadGone as error:
            self._ending.end(ticket, started.attempt, failed("upload_gone", str(error)))
            return False
        except UnusableVariant as error:
            self._ending.end(ticket, started.attempt, failed("unusable_variant", str(error)))
            return False
        with self._leaving:
            self._in_flight[job.id] = JobInFlight(job, started.attempt, ticket, outlook.texts)
        self._metrics.in_flight.set(len(self._in_flight))
        self._progress.open(job, started.attempt)
        self._engine.submit(*specs)
        return True

    def _move_variant(self, ticket: Ticket, started: Started) -> bool:
        """Promote or retire a variant, and have it announced by the time that anybody learns of it."""
        result = moved(started, self._variants)
        self._readiness.renew()
        self._ending.end(ticket, started.attempt, result, keys.STANDINGS)
        return False

    def _read(self, ticket: Ticket, started: Started) -> bool:
        """Score texts of POST /moderate."""
        self._ending.end(ticket, started.attempt, read(started, self._uploads.connection, self._detectors), keys.READ)
        return False

    def _variants_of(self, job: Job) -> dict[str, ErasedWeights] | None:
        """The erased weights that the job's plans name; loaded here, where it holds up no picture in flight.

        Pictures that leave no room for them are waited for. None: the worker is to end before there is any.
        """
        plans = [job.of_picture(index).plan for index in range(len(job.seeds))]
        names = {plan.weights.variant for plan in plans if plan.weights}
        if names and self._variants is None:
            raise UnusableVariant("this worker has no erased weights")
        alone = 0
        while True:
            try:
                return {name: self._variants.get(name) for name in names} if self._variants else {}
            except NoRoom:
                alone = 0 if self._in_flight else alone + 1
                if alone > LOOKS_WHEN_ALONE:
                    raise
            if self._thread_failed.is_set() or self._rq.stop_was_requested:
                return None
            time.sleep(0.05)

    def _wait_until_alone(self) -> bool:
        """Wait until nothing is in flight; False when the worker is to end first."""
        while self._in_flight:
            if self._thread_failed.is_set() or self._rq.stop_was_requested:
                return False
            time.sleep(0.02)
        return True

    def _free(self, done: JobInFlight) -> None:
        """An attempt has left: its slot is another's."""
        with self._leaving:
            if self._in_flight.get(done.job.id) is done:
                del self._in_flight[done.job.id]
        self._metrics.in_flight.set(len(self._in_flight))
        self._slots.release()

    # Engine

    def _drive_engine(self) -> None:
        while not self._is_closing.is_set():
            self._step_began = self._turned_at = time.monotonic()
            events = self._engine.step()
            self._step_began = None
            self._receive(events)
            if not events and self._engine.is_idle:
                self._engine.wait_for_work(timeout_s=0.2)

    def _receive(self, events: list[Progress | Outcome]) -> None:
        for event in events:
            if isinstance(event, Progress):
                self._progress.note(event)
                continue
            in_flight = self._in_flight.get(event.spec.job_id)
            again = self._delivery.collect(in_flight, event) if in_flight is not None else None
            if again is not None:
                self._progress.again(again)
                self._engine.submit(again)

    # Sweeper

    def _sweep(self) -> None:
        while True:
            try:
                self._forgetting.run(self._is_closing.is_set)
            except RedisError as error:
                log_redis_error("deleting what is over its time", error, self._metrics)
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
        for one in reversed(list(self._in_flight.values())):  # each to the front: the first taken comes out first
            try:
                self._rq.retry(one.ticket, "the worker stopped")
            except RedisError as error:
                log_redis_error("handing jobs back", error, self._metrics)
                return
