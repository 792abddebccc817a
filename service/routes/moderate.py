"""`POST /moderate`: verdicts on pictures and texts that are there already."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Request

from contract.moderation import ModerateRequest, Moderation
from service.authentication import Moderating
from service.forms import DESCRIBED, FormOrJson
from service.gateway import Here
from service.problems import (
    BadRequest,
    ForbiddenByPolicy,
    InvalidRequest,
    ModerationBusy,
    NoModel,
    NotJudged,
    NotReady,
    PolicyNotServed,
    QueueFull,
    Refusal,
    TooManyJobs,
    TooManyRefusals,
    TooMuchWork,
    UnsupportedMediaType,
    documented,
)
from service.routes.generate import Submission, require_json

router = APIRouter(tags=["moderation"], route_class=FormOrJson)

REFUSALS: tuple[type[Refusal], ...] = (
    *(BadRequest, ForbiddenByPolicy, UnsupportedMediaType, InvalidRequest, TooManyJobs, TooMuchWork, TooManyRefusals),
    *(NoModel, PolicyNotServed, QueueFull, NotReady, ModerationBusy, NotJudged),
)
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGUlEQVR42mOUs4liIAUwMZAIRjWMahg6"
    "GgBZygDUav3KNQAAAABJRU5ErkJggg=="
)
_EXAMPLES: dict[str, Any] = {
    "picture": {"summary": "A picture", "value": {"images": [PICTURE]}},
    "concept": {
        "summary": "A picture and a text, with a concept of one's own",
        "value": {
            "images": [PICTURE],
            "texts": ["a quiet street"],
            "output": {"concepts": [{"name": "weapon", "text": "a weapon", "threshold": 0.2, "action": "review"}]},
        },
    },
}


async def _submission(caller: Moderating, request: Request, gateway: Here) -> Submission:
    return Submission(caller, None, request, gateway)


ToModerate = Annotated[Submission, Depends(_submission)]


@router.post(
    "/moderate",
    operation_id="moderate",
    summary="Judge pictures and texts",
    responses=documented(*REFUSALS),
    dependencies=[Depends(require_json)],
    openapi_extra=DESCRIBED,
)
async def moderate(
    body: Annotated[ModerateRequest, Body(openapi_examples=_EXAMPLES)], submission: ToModerate
) -> Moderation:
    """Have uploads judged by the same detectors, under the same policy and on the same record as pictures made here.

    PNG, JPEG and WebP of up to 16 million pixels, in JSON or as files of a form. All of a picture counts: a long one is
    looked at square by square, a transparent one on white and on black. The answer waits for the verdicts; the bytes
    are deleted with it. A picture with the verdict `error` could not be judged, and must not be taken as passed.
    """
    return await submission.gateway.moderator.moderate(body, submission)
