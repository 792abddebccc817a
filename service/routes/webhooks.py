"""What became of telling webhooks, and telling them again."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from pydantic import Field

from contract.outbox import DeliveryState
from contract.strict import Strict
from contract.webhook import Delivery, DeliveryPage, WebhookMessage
from service.authentication import Generating
from service.gateway import Here
from service.listing import Place
from service.problem_json import documented
from service.problems import DeliveryNotFound

router = APIRouter(prefix="/webhooks/deliveries", tags=["webhooks"])
messages = APIRouter(tags=["webhooks"])  # what is sent, for the description

DeliveryId = Annotated[
    str,
    Path(description="The message's `webhook-id`.", examples=["msg_7f9c24e5b3f14c0c8a5b0c7d5f0e6a11"]),
]


class WantedDeliveries(Strict):
    """Which deliveries are listed."""

    state: list[DeliveryState] = Field([], max_length=len(DeliveryState), description="Any of these; none: all.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the page before.")


@router.get("", operation_id="list_deliveries", summary="Your webhooks, newest first")
async def list_deliveries(
    caller: Generating, gateway: Here, wanted: Annotated[WantedDeliveries, Query()]
) -> DeliveryPage:
    """One for each finished job that came with a `webhook_url`, and for each decision of a person on a picture of one;
    `state=dead` lists those that were given up."""
    after = Place.from_cursor(wanted.cursor)
    return await gateway.deliveries.page(caller.tenant, frozenset(wanted.state), wanted.limit, after)


@router.get(
    "/{delivery_id}",
    operation_id="get_delivery",
    summary="What became of a webhook",
    responses=documented(DeliveryNotFound),
)
async def get_delivery(delivery_id: DeliveryId, caller: Generating, gateway: Here) -> Delivery:
    """The delivery as it stands."""
    return await gateway.deliveries.one(delivery_id, caller.tenant)


@router.post(
    "/{delivery_id}/replay",
    operation_id="replay_delivery",
    summary="Send a webhook again",
    status_code=202,
    responses=documented(DeliveryNotFound),
)
async def replay_delivery(delivery_id: DeliveryId, caller: Generating, gateway: Here) -> Delivery:
    """Make it due now, whatever became of it: it keeps its `webhook-id` and gets all its attempts again."""
    return await gateway.deliveries.replay(delivery_id, caller.tenant)


@messages.post("job.finished", operation_id="job_finished", summary="A job is over", status_code=204)
async def job_finished(
    message: WebhookMessage,
    webhook_id: Annotated[str, Header(description="The same however often it is sent.")],
    webhook_timestamp: Annotated[int, Header(description="Of this attempt, seconds since 1970.")],
    webhook_signature: Annotated[
        str, Header(description="`v1,` and base64, for each valid secret, with blanks between.")
    ],
) -> None:
    """Sent to the `webhook_url` of the job's request, at least once, with the headers of Standard Webhooks.

    The signature is an HMAC-SHA256 over id, timestamp and body, with dots between. Any 2xx ends the delivery, 410
    as well; anything else is tried again for up to three days.
    """
