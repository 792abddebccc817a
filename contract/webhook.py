"""What a webhook is told: the message that is sent when a job is over."""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from contract.result import Status
from contract.strict import Strict
from contract.verdict import Verdict


class EventType(StrEnum):
    """What happened: a job's end, by its status; `review` when a picture of it awaits a person."""

    SUCCEEDED = "job.succeeded"
    PARTIAL = "job.partial"
    BLOCKED = "job.blocked"
    REVIEW = "job.review"
    FAILED = "job.failed"
    CANCELED = "job.canceled"
    EXPIRED = "job.expired"


class ToldPicture(Strict):
    """A picture of a finished job. Its bytes are at `url`, and are judged once more before they are handed out."""

    index: int
    verdict: Verdict
    url: str | None = Field(description="Where its bytes can be read; null unless it passed.")


class ToldJob(Strict):
    """A job that is over. Neither its prompt nor its pictures are sent: both are had from its address, with a key."""

    id: str
    status: Status
    url: str
    finished_at: AwareDatetime
    images: tuple[ToldPicture, ...]
    error_code: str | None = Field(description="Why it failed or expired, for programs.")


class WebhookMessage(Strict):
    """What is sent, in the form of Standard Webhooks. The header `webhook-id` is the same however often it is sent."""

    type: EventType
    timestamp: AwareDatetime = Field(description="When it happened; that of the sending is in `webhook-timestamp`.")
    data: ToldJob
