"""`POST /compare`: one prompt and one seed under several safety plans, as one job."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Response

from contract.compare import CompareRequest
from contract.result import JobView
from service.json_only import require_json
from service.preference import Preference
from service.routes.submitted import ANSWERS, Submitted, answer

router = APIRouter(tags=["pictures"])

_EXAMPLES: dict[str, Any] = {
    "methods": {
        "summary": "Three ways to act, beside plain generation",
        "value": {"prompt": "a crowded market", "seed": 41, "plans": ["none", "filter", "sld:medium", "unguidance"]},
    },
    "labelled": {
        "summary": "Plans with names of the caller's own",
        "value": {
            "prompt": "a quiet street",
            "plans": ["sld:weak", {"guidance": {"method": "sld", "preset": "weak", "warmup_steps": 5}}],
            "labels": ["as published", "sooner"],
        },
    },
}


@router.post(
    "/compare",
    operation_id="compare",
    summary="Compare safety plans on one prompt and seed",
    status_code=202,
    response_model=JobView,
    response_description="Accepted; the job waits or runs.",
    responses=ANSWERS,
    dependencies=[Depends(require_json)],
)
async def compare(
    body: Annotated[CompareRequest, Body(openapi_examples=_EXAMPLES)],
    submission: Submitted,
    preferred: Preference,
) -> Response:
    """Make one picture under each plan. What the plans have in common is computed once.

    Picture i of the job is plan i's; `comparison` tells how far each plan moved the scores, and the picture, from the
    first plan's. Every plan must be one that `POST /generate` would take, and none may act by `regenerate`: a compare
    keeps to one seed. Where the policy's floor regenerates, a compare blocks.
    """
    return await answer(submission, body, preferred)
