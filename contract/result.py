"""Results: what a job came to, as kept in Redis and told over HTTP."""

from enum import StrEnum
from typing import Any

from pydantic import AwareDatetime, Field

from contract.job import PolicyRef
from contract.request import RequestedPlan
from contract.steps import GuidanceRecord, TrajectoryRecord
from contract.strict import Strict
from contract.verdict import ConceptScore, Verdict


class Status(StrEnum):
    """A job's state. `blocked` and `partial` are successes of the service: terminal, with verdicts, not errors."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    BLOCKED = "blocked"
    FAILED = "failed"
    CANCELED = "canceled"
    EXPIRED = "expired"

    @property
    def is_terminal(self) -> bool:
        """Whether the job is over: its record never changes again."""
        return self not in (Status.QUEUED, Status.RUNNING)


class JobError(Strict):
    """Why a job or a picture failed: a stable code and one sentence."""

    code: str
    message: str


class Picture(Strict):
    """One picture's verdict and the evidence behind it. `sha256` is of the encoded file; null when withheld."""

    index: int
    seed: int
    verdict: Verdict
    url: str | None = None
    sha256: str | None = None
    width: int
    height: int
    concepts: tuple[ConceptScore, ...] = ()
    reasons: tuple[str, ...] = ()
    guidance: GuidanceRecord | None = None
    trajectory: TrajectoryRecord | None = None
    error: JobError | None = None


class AppliedSafety(Strict):
    """What was asked for and what really ran, every parameter resolved."""

    requested: RequestedPlan
    applied: dict[str, Any]
    policy: PolicyRef
    weights_sha256: str | None = None
    model: str


class Metrics(Strict):
    """Seconds on the worker's clock; `unet_rows` counts rows that went through the UNet, over all pictures."""

    queue_s: float
    inference_s: float
    total_s: float
    steps: int
    unet_rows: int
    images_per_batch_mean: float


class Result(Strict):
    """What a worker commits for a job, once."""

    status: Status
    safety: AppliedSafety | None = None
    images: tuple[Picture, ...] = ()
    metrics: Metrics | None = None
    error: JobError | None = None


class JobView(Strict):
    """A job as told over HTTP."""

    id: str
    status: Status
    created_at: AwareDatetime
    started_at: AwareDatetime | None = None
    finished_at: AwareDatetime | None = None
    safety: AppliedSafety | None = None
    images: tuple[Picture, ...] = ()
    metrics: Metrics | None = None
    error: JobError | None = Field(None, description="Set when the status is failed or expired.")


def status_of(verdicts: tuple[Verdict, ...]) -> Status:
    """A finished job's status from its pictures' verdicts."""
    passed = verdicts.count(Verdict.PASSED)
    if passed == len(verdicts):
        return Status.SUCCEEDED
    if passed:
        return Status.PARTIAL
    return Status.FAILED if all(verdict is Verdict.ERROR for verdict in verdicts) else Status.BLOCKED
