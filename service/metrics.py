"""What the gateway counts, in a registry of its own."""

import time
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from contract.keys import ERASURES, PICTURES, STANDINGS
from service.queue import Load
from service.refused_prompts import FIELDS

KINDS = (PICTURES, ERASURES, STANDINGS)
_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60)


@dataclass(frozen=True)
class Stock:
    """What Redis tells about the whole deployment, at one moment."""

    loads: Mapping[str, Load]  # by model
    ready: Sequence[str]  # a model's name for each worker that is ready
    oldest_at: Mapping[str, float]  # when the oldest unfinished job of a kind was accepted, epoch seconds
    memory_bytes: int  # of Redis
    memory_limit_bytes: int  # 0: none
    is_unsafe: bool = False  # Redis might lose what was accepted
    shifted: Mapping[str, int] = field(default_factory=dict)  # concepts whose scores have shifted, by model
    reviews: int = 0  # not yet decided
    oldest_review_at: float | None = None  # epoch seconds
    undelivered: int = 0
    dead: int = 0


class Metrics:
    """One gateway process's metrics; those of the queue are read from Redis when they are asked for."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, listeners: Callable[[], int]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "seemly_http_requests", "Answers, by route, method and status.", ["route", "method", "status"],
            registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "seemly_http_first_byte_seconds", "From a request's arrival to its answer's first byte.",
            ["route", "method"], buckets=_LATENCY_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.accepted = Counter("seemly_jobs_accepted", "Jobs accepted by this process.", ["model"], registry=registry)
        self.prompts_refused = Counter(
            "seemly_prompts_refused", "Requests refused for their words, by the first field concerned.", ["field"],
            registry=registry,
        )  # fmt: skip
        for refused in FIELDS:
            self.prompts_refused.labels(refused)
        events = Gauge("seemly_event_listeners", "Event streams and waits open in this process.", registry=registry)
        events.set_function(listeners)
        self._redis_up = Gauge("seemly_redis_up", "Whether Redis answered just now.", registry=registry)
        self._waiting = Gauge("seemly_queue_waiting", "Jobs waiting for a worker.", ["model"], registry=registry)
        self._popped = Gauge("seemly_queue_popped", "Jobs taken and not yet started.", ["model"], registry=registry)
        self._in_flight = Gauge("seemly_queue_in_flight", "Jobs that workers hold.", ["model"], registry=registry)
        self._unfinished = Gauge(
            "seemly_queue_unfinished", "Jobs waiting, popped and in flight; what workers are scaled by.", ["model"],
            registry=registry,
        )  # fmt: skip
        self._ready = Gauge("seemly_workers_ready", "Workers that take jobs.", ["model"], registry=registry)
        self._oldest = Gauge(
            "seemly_oldest_unfinished_job_seconds", "Since the oldest unfinished job was accepted; 0 without one.",
            ["kind"], registry=registry,
        )  # fmt: skip
        self._memory = Gauge("seemly_redis_memory_bytes", "Memory that Redis uses.", registry=registry)
        self._memory_limit = Gauge(
            "seemly_redis_memory_limit_bytes", "Memory that Redis may use; 0: no limit is set.", registry=registry
        )
        self._unsafe = Gauge(
            "seemly_redis_unsafe", "Whether Redis evicts jobs, or forgets them when it ends.", registry=registry
        )
        self._shifted = Gauge(
            "seemly_drift_shifted_concepts", "Concepts whose scores have shifted in 24 hours; see GET /drift.",
            ["model"], registry=registry,
        )  # fmt: skip
        self._reviews = Gauge("seemly_reviews_pending", "Withheld pictures that await a person.", registry=registry)
        self._oldest_review = Gauge(
            "seemly_oldest_pending_review_seconds", "Since the one that waits longest came up; 0 without one.",
            registry=registry,
        )  # fmt: skip
        self._undelivered = Gauge("seemly_webhooks_pending", "Webhooks that were not yet delivered.", registry=registry)
        self._dead = Gauge("seemly_webhooks_dead", "Webhooks that were given up, of 30 days.", registry=registry)

    def exposition(self, stock: Stock | None) -> bytes:
        """The metrics in Prometheus' text format; without a stock when Redis is away."""
        self._redis_up.set(stock is not None)
        by_model = (self._shifted, self._waiting, self._popped, self._in_flight, self._unfinished, self._ready)
        for gauge in by_model:
            gauge.clear()
        if stock is not None:
            self._note(stock)
        return generate_latest(self._registry)

    def _note(self, stock: Stock) -> None:
        for model, concepts in stock.shifted.items():
            self._shifted.labels(model).set(concepts)
        for model, load in stock.loads.items():
            self._waiting.labels(model).set(load.waiting)
            self._popped.labels(model).set(load.popped)
            self._in_flight.labels(model).set(load.in_flight)
            self._unfinished.labels(model).set(load.unfinished)
        ready = Tally(stock.ready)
        for model in {*stock.loads, *ready}:
            self._ready.labels(model).set(ready[model])
        for kind in KINDS:
            self._oldest.labels(kind).set(_since(stock.oldest_at.get(kind)))
        self._reviews.set(stock.reviews)
        self._oldest_review.set(_since(stock.oldest_review_at))
        self._memory.set(stock.memory_bytes)
        self._memory_limit.set(stock.memory_limit_bytes)
        self._unsafe.set(stock.is_unsafe)
        self._undelivered.set(stock.undelivered)
        self._dead.set(stock.dead)


def _since(at: float | None) -> float:
    return 0.0 if at is None else max(0.0, time.time() - at)
