"""What becomes of a variant: promoted once it has passed its gate, retired once it has served."""

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from contract.listing import Variant
from contract.model import VariantStatus
from contract.standing import PromoteRequest, RetireRequest
from service.authentication import Administering
from service.awaiting import gone
from service.callers import Caller
from service.gateway import Gateway, Here
from service.json_only import require_json
from service.problem_json import documented
from service.problems import (
    BadRequest,
    InvalidRequest,
    NoModel,
    NotMoved,
    NotPromoted,
    NotReady,
    QueueFull,
    UnsupportedMediaType,
    VariantNotFound,
)
from service.standings import Change

router = APIRouter(prefix="/variants", tags=["catalogue"], dependencies=[Depends(require_json)])

Name = Annotated[str, Path(description="The variant's.", examples=["uce-knives"])]
_REFUSALS = (BadRequest, VariantNotFound, UnsupportedMediaType, InvalidRequest, NoModel, NotMoved, QueueFull, NotReady)


@router.post(
    "/{name}/promote",
    operation_id="promote_variant",
    summary="Let requests ask for a variant",
    responses=documented(NotPromoted, *_REFUSALS),
)
async def promote(name: Name, body: PromoteRequest, caller: Administering, request: Request, gateway: Here) -> Variant:
    """Make a variant that has passed its gate available. Running workers serve it at once, or at their next heartbeat.

    One that has not passed is refused with what was found, unless `force` says why it may be served all the same.
    """
    change = Change(name, VariantStatus.AVAILABLE, body.force)
    return await _changed(caller, body.model, change, request, gateway)


@router.post(
    "/{name}/retire",
    operation_id="retire_variant",
    summary="Take a variant out of service",
    responses=documented(*_REFUSALS),
)
async def retire(name: Name, body: RetireRequest, caller: Administering, request: Request, gateway: Here) -> Variant:
    """Refuse requests for a variant from now on. Pictures that are being made with it are still finished."""
    change = Change(name, VariantStatus.RETIRED, body.reason)
    return await _changed(caller, body.model, change, request, gateway)


async def _changed(caller: Caller, model: str | None, change: Change, request: Request, gateway: Gateway) -> Variant:
    ends = partial(gone, request), gateway.leaving.wait
    named, variant = await gateway.standings.change(caller.tenant, model, change, *ends)
    return Variant(model=named, **variant.model_dump())
