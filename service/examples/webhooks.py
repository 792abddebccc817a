"""What is told of a job, and what became of telling it."""

from datetime import timedelta

from pydantic import BaseModel

from contract.outbox import DeliveryState
from contract.result import Status
from contract.webhook import Delivery, DeliveryPage, EventType, ToldJob, ToldPicture, WebhookMessage
from service.examples.a_job import BLOCKED, FINISHED, ID, PASSED

_DELIVERY = Delivery(
    id=f"msg_{ID}",
    job_id=ID,
    type=EventType.PARTIAL,
    target="https://app.example/seemly",
    state=DeliveryState.PENDING,
    created_at=FINISHED,
    attempts=1,
    last_attempt_at=FINISHED + timedelta(milliseconds=90),
    last_status=500,
    last_error="answered 500",
    next_attempt_at=FINISHED + timedelta(milliseconds=4790),
)

EXAMPLES: tuple[BaseModel, ...] = (
    _DELIVERY,
    DeliveryPage(deliveries=(_DELIVERY,), next_cursor=None),
    WebhookMessage(
        type=EventType.PARTIAL,
        timestamp=FINISHED,
        data=ToldJob(
            id=ID,
            status=Status.PARTIAL,
            url=f"/jobs/{ID}",
            finished_at=FINISHED,
            images=tuple(
                ToldPicture(index=one.index, verdict=one.verdict, url=one.url, reasons=one.reasons)
                for one in (BLOCKED, PASSED)
            ),
            error_code=None,
        ),
    ),
)
