"""A worker at work: five threads between the queue and the engine.

    dispatcher (main)   a free slot → pop → lease → START → `engine.submit`
    engine              `engine.step` in a loop, pictures judged as they come out
    finaliser           encode, store, COMMIT, end the job in RQ; progress events
    keeper              cancellations every second, heartbeats, the reaper
    sweeper             deletes what is over its time; apart, since a slow store must not delay a heartbeat

A thread that fails, and a step of the engine that never ends, end the process; its jobs go back to the queue.
"""

import contextlib
import logging
import time
from queue import SimpleQueue

from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.model import ModelInfo
from contract.redis_safety import RedisSafety
from contract.retention import Lifetimes
from contract.tracing import Tracing
from workers.announce import Announcement
from workers.beginning import Beginning
from workers.delivery import Delivery, JobInFlight, PictureEngine, Stores
from workers.dispatcher import Dispatcher
from workers.driver import Driver
from workers.ending import Ending
from workers.finaliser import Finaliser
from workers.forgetting import Forgetting
from workers.keeper import Keeper
from workers.lifecycle import RqWorker, Ticket
from workers.marking import Marking
from workers.metrics import WorkerMetrics
from workers.policies import PolicyReader
from workers.progress import ProgressBoard
from workers.readiness import Detectors, Readiness
from workers.reading import read
from workers.reaper import Reaper
from workers.records import JobRecords, Started
from workers.settings import Settings
from workers.shift import Shift
from workers.slots import Slots
from workers.submitting import Submitting
from workers.taking import Taking
from workers.trouble import log_redis_error
from workers.uploads import Uploads
from workers.variants.moving import moved
from workers.variants.shelf import VariantShelf

log = logging.getLogger(__name__)

EXIT_DRAINED = 0
EXIT_CUT_SHORT = 1
EXIT_THREAD_FAILED = 70
THREADS_END_WITHIN_S = 5.0
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
        self._connection = connection
        self._info = info
        self._variants = variants
        self._detectors = detectors
        self._metrics = metrics
        rq = RqWorker(keys.queue_name(info.name), connection, settings.lease_s, on_stop_job=engine.cancel)
        announcement = Announcement(connection, info, tokenizer_json, rq.name, settings.lease_s, variants)
        safety = RedisSafety(connection, settings.allow_unsafe_redis)
        records = JobRecords(connection, settings.record_ttl_s, settings.withheld_keep_s)
        policies = PolicyReader(connection, settings.floor)
        progress = ProgressBoard(connection)
        complete: SimpleQueue[JobInFlight] = SimpleQueue()
        delivery = Delivery(info, stores, records, policies, metrics, complete.put, tracing, marking)
        most = Lifetimes(settings.record_ttl_s, settings.withheld_keep_s, settings.audit_keep_s)
        reaper = Reaper(connection, rq.queue, records, metrics, settings.homeless_grace_s)
        self._rq = rq
        self._readiness = Readiness(announcement, metrics, safety, detectors)
        self._shift = Shift(rq)
        self._slots = Slots(settings.slots, metrics)
        self._ending = Ending(records, rq, metrics)
        submitting = Submitting(
            Beginning(info, policies, detectors, metrics),
            self._ending,
            rq,
            Uploads(connection),
            variants,
            engine,
            progress,
            self._slots,
            self._shift,
        )
        handlers = {
            keys.GENERATE: submitting.submit,
            keys.COMPARE: submitting.submit,
            keys.MODERATE: submitting.submit,
            keys.MOVE: self._move_variant,
            keys.READ: self._read,
        }
        taking = Taking(records, rq, self._ending, metrics, self._shift, is_fit=lambda: self._readiness.is_fit)
        self._dispatcher = Dispatcher(handlers, taking, self._ending, records, rq, self._slots, self._shift)
        self._driver = Driver(engine, self._slots, delivery, progress, self._shift.is_closing)
        self._finaliser = Finaliser(
            complete,
            delivery,
            self._ending,
            rq,
            progress,
            metrics,
            settings.progress_s,
            self._shift.is_closing,
            on_done=self._slots.leave,
        )
        self._keeper = Keeper(
            settings,
            rq,
            self._readiness,
            reaper,
            records,
            engine.cancel,
            metrics,
            self._slots.held,
            step_began=lambda: self._driver.step_began,
            shift=self._shift,
        )
        self._forgetting = Forgetting(
            connection, stores, policies, most, settings.sweep_margin_s, settings.sweep_s, metrics
        )

    @property
    def name(self) -> str:
        """The worker's name in RQ, unique per start."""
        return str(self._rq.name)

    @property
    def is_alive(self) -> bool:
        """Whether the engine's loop turns: no step lasts longer than may be, and its thread is there."""
        return time.monotonic() - self._driver.turned_at <= self._settings.step_limit_s + TURNS_WITHIN_S

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
        self._shift.begin(
            {
                "engine": self._driver.run,
                "finaliser": self._finaliser.run,
                "keeper": self._keeper.run,
                "sweeper": lambda: self._forgetting.run(self._shift.is_closing),
            }
        )
        exit_code = EXIT_CUT_SHORT
        try:
            self._dispatcher.run()
            self._withdraw()
            exit_code = self._drain()
        except SystemExit:
            log.warning("stopped at once; %d jobs go back to the queue", len(self._slots.held))
        finally:
            if exit_code != EXIT_DRAINED:
                self._hand_back()
            self._shift.end(THREADS_END_WITHIN_S)
            self._withdraw()
            self._rq.retire()
        log.info("worker %s ends with exit code %d", self._rq.name, exit_code)
        return exit_code

    def _withdraw(self) -> None:
        with contextlib.suppress(RedisError):  # readiness ends by itself
            self._readiness.withdraw()

    # Jobs that need no engine

    def _move_variant(self, ticket: Ticket, started: Started) -> bool:
        """Promote or retire a variant, and have it announced by the time that anybody learns of it."""
        result = moved(started, self._variants)
        self._readiness.renew()
        self._ending.end(ticket, started.attempt, result, keys.STANDINGS)
        return False

    def _read(self, ticket: Ticket, started: Started) -> bool:
        """Score texts of POST /moderate."""
        self._ending.end(ticket, started.attempt, read(started, self._connection, self._detectors), keys.READ)
        return False

    # The end

    def _drain(self) -> int:
        """Wait for what is in flight, as long as may be."""
        limit, has_failed = self._settings.drain_limit_s, self._shift.has_failed
        ends_at = time.monotonic() + limit if limit is not None else float("inf")
        log.info("draining: %d jobs in flight", len(self._slots.held))
        is_drained = self._slots.wait_until_empty(lambda: has_failed.is_set() or time.monotonic() > ends_at)
        if has_failed.is_set():
            return EXIT_THREAD_FAILED
        if not is_drained:
            log.warning("not drained after %s s; %d jobs go back to the queue", limit, len(self._slots.held))
            return EXIT_CUT_SHORT
        return EXIT_DRAINED

    def _hand_back(self) -> None:
        """Jobs that will not be finished here go back to the queue at once, instead of waiting for their leases."""
        for one in reversed(list(self._slots.held.values())):  # each to the front: the first taken comes out first
            try:
                self._rq.retry(one.ticket, "the worker stopped")
            except RedisError as error:
                log_redis_error("handing jobs back", error, self._metrics)
                return
