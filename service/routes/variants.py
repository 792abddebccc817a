"""What becomes of a variant: promoted once it has passed its gate, retired once it has served."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path

from contract.listing import Variant
from contract.model import VariantStatus
from contract.standing import PromoteRequest, RetireRequest
from service.authentication import Administering
from service.gateway import Here
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
async def promote(name: Name, body: PromoteRequest, caller: Administering, gateway: Here) -> Variant:
    """Make a variant that has passed its gate available. Running workers serve it at once, or at their next heartbeat.

    One that has not passed is refused with what was found, unless `force` says why it may be served all the same.
    """
    change = Change(name, VariantStatus.AVAILABLE, body.force)
    model, variant = await gateway.standings.change(caller.tenant, body.model, change)
    return Variant(model=model, **variant.model_dump())


@router.post(
    "/{name}/retire",
    operation_id="retire_variant",
    summary="Take a variant out of service",
    responses=documented(*_REFUSALS),
)
async def retire(name: Name, body: RetireRequest, caller: Administering, gateway: Here) -> Variant:
    """Refuse requests for a variant from now on. Pictures that are being made with it are still finished."""
    change = Change(name, VariantStatus.RETIRED, body.reason)
    model, variant = await gateway.standings.change(caller.tenant, body.model, change)
    return Variant(model=model, **variant.model_dump())
