"""What a delivery process counts, in a registry of its own."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30)
_DELAYS_S = (0.1, 0.5, 1, 5, 30, 120, 600, 3600, 14_400, 86_400, 259_200)


class DeliveryMetrics:
    """Base units, labels from fixed sets only."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        self.attempts = Counter(
            "seemly_webhook_attempts", "Messages sent, by what became of the delivery.", ["state"], registry=registry
        )
        self.attempt = Histogram(
            "seemly_webhook_attempt_seconds", "One attempt, from looking up the name to the answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.delay = Histogram(
            "seemly_webhook_delay_seconds", "From a job's end to the message's arrival.",
            buckets=_DELAYS_S, registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("seemly_webhook_in_flight", "Deliveries being sent right now.", registry=registry)
        self.redis_errors = Counter(
            "seemly_webhook_redis_errors", "Redis commands that failed after all retries.", registry=registry
        )
