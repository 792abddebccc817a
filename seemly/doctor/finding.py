"""What the doctor finds, and what it looks at."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from redis import Redis

from service.settings import Settings as GatewaySettings
from service.webhooks.settings import Settings as DeliverySettings
from workers.settings import Settings as WorkerSettings


class State(StrEnum):
    """How bad it is."""

    OK = "ok"
    SKIPPED = "skipped"  # cannot be seen from here
    WARNING = "warning"  # it serves, but not as it should in earnest
    FAULT = "fault"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `todo` is what to do about it."""

    check: str
    state: State
    told: str
    todo: str = ""


Findings = Iterator[Finding]


@dataclass(frozen=True)
class Deployment:
    """A deployment, as the environment of this process describes it."""

    gateway: GatewaySettings
    worker: WorkerSettings
    delivery: DeliverySettings
    redis: Redis
    is_worker_here: bool  # whether what a worker needs is installed where the doctor runs


def ok(check: str, told: str) -> Finding:
    """Nothing to do."""
    return Finding(check, State.OK, told)


def skipped(check: str, told: str) -> Finding:
    """Not seen from here."""
    return Finding(check, State.SKIPPED, told)


def warning(check: str, told: str, todo: str) -> Finding:
    """To be looked at."""
    return Finding(check, State.WARNING, told, todo)


def fault(check: str, told: str, todo: str) -> Finding:
    """To be mended."""
    return Finding(check, State.FAULT, told, todo)
