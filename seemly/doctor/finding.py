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


class Process(StrEnum):
    """Whose environment the doctor has."""

    GATEWAY = "gateway"
    WORKER = "worker"
    WEBHOOKS = "webhooks"


@dataclass(frozen=True)
class Deployment:
    """A deployment, as the environment of one of its processes, or of all, describes it."""

    gateway: GatewaySettings
    worker: WorkerSettings
    delivery: DeliverySettings
    redis: Redis
    process: Process | None  # whose environment it is; None: all of them run here
    is_worker_here: bool  # whether what a worker needs is installed where the doctor runs

    def has(self, process: Process) -> bool:
        """Whether that process would run under this environment."""
        return self.process in (None, process)


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
