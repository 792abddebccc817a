"""What a webhook is told when a job is over, and what its tenant is told of the telling."""

from enum import StrEnum

from pydantic import AwareDatetime, Field

from contract.outbox import DeliveryState
from contract.result import Status
from contract.strict import Strict
from contract.verdict import Verdict


class EventType(StrEnum):
    """What happened: a job's end, or a person's decision on a picture of it, by its status; `review` while one of its
    pictures awaits a person."""

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
    url: str | None = Field(description="Where its bytes can be read; null unless it passed, and of an upload.")
    reasons: tuple[str, ...] = Field((), description="Why: a sentence for each concept found, and a person's decision.")


class ToldJob(Strict):
    """A job that is over. Neither its prompt nor its pictures are sent: both are had from its address, with a key."""

    id: str
    status: Status
    url: str
    finished_at: AwareDatetime = Field(description="When the job ended, or the person decided.")
    images: tuple[ToldPicture, ...]
    error_code: str | None = Field(description="Why it failed or expired, for programs.")


class WebhookMessage(Strict):
    """What is sent, in the form of Standard Webhooks. The header `webhook-id` is the same however often it is sent."""

    type: EventType
    timestamp: AwareDatetime = Field(description="When it happened; that of the sending is in `webhook-timestamp`.")
    data: ToldJob


class Delivery(Strict):
    """A message to a webhook, and what became of it."""

    id: str = Field(description="The header `webhook-id`, the same at every attempt.")
    job_id: str
    type: EventType
    target: str = Field(description="The webhook_url that came with the request.")
    state: DeliveryState = Field(
        description="`pending`: it is tried until it arrives. `gone`: the receiver answered 410. `dead`: given up after"
        " the last attempt."
    )
    created_at: AwareDatetime = Field(description="When the job ended, or the person decided.")
    attempts: int
    last_attempt_at: AwareDatetime | None
    last_status: int | None = Field(description="What the receiver answered; null: it did not.")
    last_error: str | None = Field(description="Why the last attempt came to nothing; null: it arrived.")
    next_attempt_at: AwareDatetime | None


class DeliveryPage(Strict):
    """Some of a tenant's deliveries, newest first."""

    deliveries: tuple[Delivery, ...]
    next_cursor: str | None = Field(description="Where the next page begins; null: there is none.")
