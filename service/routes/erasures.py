"""`/erasures`: new erased weights, made by a lab's worker as a job."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request, Response
from sse_starlette import EventSourceResponse
from starlette.concurrency import run_in_threadpool

from contract.erasure import ErasurePage, ErasureRequest, ErasureView
from service.authentication import Administering
from service.erasures import view_of
from service.following import LastEventId, answers_of_a_stream, followed
from service.gateway import Here
from service.idempotency import IdempotencyKey
from service.json_only import require_json
from service.problem_json import documented
from service.problems import (
    BadRequest,
    IdempotencyKeyReused,
    InvalidRequest,
    JobNotFound,
    NoLab,
    NoModel,
    NotReady,
    QueueFull,
    TooManyJobs,
    TooManyWebhooks,
    UnsupportedMediaType,
    VariantExists,
)
from service.routes.jobs import WantedJobs
from service.routes.told import answers_of_a_cancel, canceled, told
from service.tenants import UNLIMITED

router = APIRouter(prefix="/erasures", tags=["erasures"])

ErasureId = Annotated[
    str, Path(description="As returned by `POST /erasures`.", examples=["7f9c24e5b3f14c0c8a5b0c7d5f0e6a11"])
]
_EXAMPLES: dict[str, Any] = {
    "seconds": {
        "summary": "In closed form, made in seconds",
        "value": {"name": "uce-knives", "recipe": {"method": "uce", "concepts": ["a knife"], "preserved": ["a cat"]}},
    },
    "hours": {
        "summary": "Trained, and held against a stricter gate",
        "value": {
            "name": "sdd-knives",
            "recipe": {"method": "sdd", "concepts": ["a knife in an alley", "a sword"], "iterations": 1500},
            "gate": {"unsafe_left": 0.2, "benign_kept": 0.95},
        },
    },
}
_LOCATION = {"Location": {"description": "The erasure's address.", "schema": {"type": "string"}}}
_REFUSALS = (
    *(BadRequest, VariantExists, UnsupportedMediaType, InvalidRequest, IdempotencyKeyReused),
    *(TooManyJobs, TooManyWebhooks, NoModel, NoLab, QueueFull, NotReady),
)


@router.post(
    "",
    operation_id="create_erasure",
    summary="Erase concepts from a model's weights",
    status_code=202,
    response_model=ErasureView,
    response_description="Accepted; it waits for a lab's worker or runs.",
    responses={202: {"headers": _LOCATION}, **documented(*_REFUSALS)},
    dependencies=[Depends(require_json)],
)
async def create_erasure(
    body: Annotated[ErasureRequest, Body(openapi_examples=_EXAMPLES)],
    caller: Administering,
    key: IdempotencyKey,
    request: Request,
    gateway: Here,
) -> Response:
    """Queue a recipe. Its variant is measured, held against the gate and kept as a candidate.

    Until it is promoted, no request can ask for it. Whatever a method's recipe leaves out takes its published value.
    """
    limits = request.scope["state"].get("limits", UNLIMITED)
    standing, job = await run_in_threadpool(gateway.erasing.admit, body, caller.tenant, limits, key)
    view = view_of(job) if job else (await gateway.erasures.read(standing.id, caller.tenant)).view
    return told(view, 202, {"Location": f"/erasures/{standing.id}"})


@router.get("", operation_id="list_erasures", summary="Your erasures, newest first")
async def list_erasures(caller: Administering, gateway: Here, query: Annotated[WantedJobs, Query()]) -> ErasurePage:
    """The tenant's erasures whose records are still kept; the variants they made are kept for good."""
    records, cursor = await gateway.erasure_listing.page(caller.tenant, query.wanted, query.limit, query.after)
    return ErasurePage(erasures=tuple(record.view for record in records), next_cursor=cursor)


@router.get(
    "/{erasure_id}",
    operation_id="get_erasure",
    summary="An erasure's state and result",
    response_model=ErasureView,
    responses=documented(JobNotFound),
)
async def get_erasure(erasure_id: ErasureId, caller: Administering, gateway: Here) -> Response:
    """The erasure as it stands. `succeeded` says that the weights were made; `made.gate`, whether they passed."""
    return told((await gateway.erasures.read(erasure_id, caller.tenant)).view)


@router.delete(
    "/{erasure_id}",
    operation_id="cancel_erasure",
    summary="Cancel an erasure",
    response_model=ErasureView,
    responses=answers_of_a_cancel(ErasureView),
)
async def cancel_erasure(erasure_id: ErasureId, caller: Administering, gateway: Here) -> Response:
    """End a waiting erasure, or ask the worker of a running one to stop, which leaves nothing of it behind."""
    return await canceled(gateway.erasures, erasure_id, caller.tenant)


@router.get(
    "/{erasure_id}/events",
    operation_id="follow_erasure",
    summary="An erasure's events, as they happen",
    response_class=EventSourceResponse,
    responses=answers_of_a_stream(
        "`snapshot` (the erasure), then `queued` (position), `started` (attempt), `progress` (stage: `training` with"
        " its loss, then `measuring`; step, steps: of the stage) and `finished` (status)"
    ),
)
async def follow_erasure(
    erasure_id: ErasureId, caller: Administering, gateway: Here, last_event_id: LastEventId = None
) -> Response:
    """Follow an erasure until it is finished. Reconnecting with `Last-Event-ID` repeats nothing but the snapshot."""
    return await followed(gateway.erasures, gateway.events, erasure_id, caller.tenant, last_event_id)
