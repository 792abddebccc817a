"""What the gateway counts, in a registry of its own."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from service.queue import Load

_LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 15, 60)


class Metrics:
    """One gateway process's metrics; those of the queue are read from Redis when they are asked for."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, listeners: Callable[[], int]) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "seemly_http_requests", "Answers, by route, method and status.", ["route", "method", "status"],
            registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "seemly_http_first_byte_seconds", "From a request's arrival to its answer's first byte.",
            ["route", "method"], buckets=_LATENCY_BUCKETS_S, registry=registry,
        )  # fmt: skip
        self.accepted = Counter("seemly_jobs_accepted", "Jobs accepted by this process.", ["model"], registry=registry)
        events = Gauge("seemly_event_listeners", "Event streams and waits open in this process.", registry=registry)
        events.set_function(listeners)
        self._redis_up = Gauge("seemly_redis_up", "Whether Redis answered just now.", registry=registry)
        self._waiting = Gauge("seemly_queue_waiting", "Jobs waiting for a worker.", ["model"], registry=registry)
        self._popped = Gauge("seemly_queue_popped", "Jobs taken and not yet started.", ["model"], registry=registry)
        self._in_flight = Gauge("seemly_queue_in_flight", "Jobs that workers hold.", ["model"], registry=registry)

        self._undelivered = Gauge("seemly_webhooks_pending", "Webhooks that were not yet delivered.", registry=registry)
        self._dead = Gauge("seemly_webhooks_dead", "Webhooks that were given up, of 30 days.", registry=registry)

    def exposition(self, loads: dict[str, Load] | None, pending: int = 0, dead: int = 0) -> bytes:
        """The metrics in Prometheus' text format; `loads` by model, None when Redis is away."""
        self._redis_up.set(loads is not None)
        self._undelivered.set(pending)
        self._dead.set(dead)
        for gauge in (self._waiting, self._popped, self._in_flight):
            gauge.clear()
        for model, load in (loads or {}).items():
            self._waiting.labels(model).set(load.waiting)
            self._popped.labels(model).set(load.popped)
            self._in_flight.labels(model).set(load.in_flight)
        return generate_latest(self._registry)
