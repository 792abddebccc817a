"""`GET /drift`: whether what is made now scores as it did."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.concurrency import run_in_threadpool

from contract.drift import DriftReport
from contract.request import ModelName
from contract.strict import Strict
from service.authentication import Administering
from service.drift import RECENT_H, REFERENCE_H
from service.gateway import Here
from service.problem_json import documented
from service.problems import InvalidRequest, NoModel

router = APIRouter(tags=["moderation"])


class WantedDrift(Strict):
    """Which model's, and over which times."""

    model: ModelName | None = Field(None, description="Null: the deployment's default.")
    recent_h: int = Field(RECENT_H, ge=1, le=168, description="The last hours, this one among them.")
    reference_h: int = Field(REFERENCE_H, ge=1, le=720, description="The hours before, which they are held against.")
    histograms: bool = Field(False, description="With how many pictures scored how much, then and now.")


@router.get(
    "/drift",
    operation_id="get_drift",
    summary="Whether scores have shifted",
    responses=documented(InvalidRequest, NoModel),
)
async def get_drift(caller: Administering, gateway: Here, query: Annotated[WantedDrift, Query()]) -> DriftReport:
    """The population stability index of every concept's scores, over all tenants: the last hours against those before.

    Over 0.2 a concept counts as shifted, and `seemly_drift_shifted_concepts` is over 0: prompts, the model or the
    detector have changed, and thresholds may no longer fit. At most a minute old.
    """
    model = await run_in_threadpool(gateway.catalogue.model, query.model)
    report = await gateway.drift.report(model.name, query.recent_h, query.reference_h)
    return report if query.histograms else report.without_histograms
