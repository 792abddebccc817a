"""`POST /moderate`: verdicts on pictures and texts that are there already."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request

from contract.moderation import ModerateRequest, Moderation
from contract.review import Appealed, AppealRequest
from service.authentication import Moderating
from service.callers import Caller
from service.forms import DESCRIBED, FormOrJson
from service.gateway import Gateway, Here
from service.idempotency import IdempotencyKey
from service.jobs import JobRecord
from service.json_only import require_json
from service.moderating import moderation_of
from service.problem_json import documented
from service.problems import (
    BadRequest,
    InvalidRequest,
    JobNotFound,
    ModerationBusy,
    NotAppealable,
    NotJudged,
    PictureNotFound,
    UnsupportedMediaType,
)
from service.routes.reviews import APPEALS
from service.routes.submitted import OF_A_JOB
from service.submission import Submission

router = APIRouter(tags=["moderation"], route_class=FormOrJson)

REFUSALS = (*OF_A_JOB, ModerationBusy, NotJudged)
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


async def _submission(caller: Moderating, key: IdempotencyKey, request: Request, gateway: Here) -> Submission:
    return Submission(caller, key, request, gateway)


ToModerate = Annotated[Submission, Depends(_submission)]
ModerationId = Annotated[
    str, Path(description="As `POST /moderate` answered it.", examples=["7f9c24e5b3f14c0c8a5b0c7d5f0e6a11"])
]


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
    are deleted with it, but for what is then before a person: `GET /moderate/{id}` tells the decision. A picture with
    the verdict `error` could not be judged, and must not be taken as passed. Under an `Idempotency-Key` the pictures
    are judged once, however often they are sent.
    """
    return await submission.gateway.moderator.moderate(body, submission)


@router.get(
    "/moderate/{moderation_id}",
    operation_id="get_moderation",
    summary="What uploads came to",
    responses=documented(JobNotFound, PictureNotFound, NotJudged),
)
async def get_moderation(moderation_id: ModerationId, caller: Moderating, gateway: Here) -> Moderation:
    """The verdicts on a request's pictures as they stand now: judged once more under the policy in force, and with
    people's decisions. Texts are not kept, and not told again; `flagged` is also true when one of them did not
    pass."""
    return moderation_of(await _read(moderation_id, caller, gateway))


@router.post(
    "/moderate/{moderation_id}/appeal",
    operation_id="appeal_moderation",
    summary="Have a person look at a blocked upload",
    status_code=202,
    responses=documented(
        *(BadRequest, UnsupportedMediaType, InvalidRequest, JobNotFound, PictureNotFound, NotAppealable)
    ),
    dependencies=[Depends(require_json)],
)
async def appeal_moderation(
    moderation_id: ModerationId,
    body: Annotated[AppealRequest, Body(openapi_examples=APPEALS)],
    caller: Moderating,
    gateway: Here,
) -> Appealed:
    """As `POST /jobs/{job_id}/appeal`, for uploads. Where the policy does not keep those that are blocked, the person
    decides on the evidence, and the decision is the verdict: the picture is its sender's."""
    await _read(moderation_id, caller, gateway)
    return await gateway.reviews.appeal(moderation_id, caller, body)


async def _read(moderation_id: str, caller: Caller, gateway: Gateway) -> JobRecord:
    record = (await gateway.jobs.read(moderation_id, caller.tenant)).seen_by(caller)
    if not record.job.uploads:
        raise JobNotFound
    return record
