"""Withheld pictures before a person, for those who may see them: the scope `review`."""

import hashlib
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import Field

from contract.concept_text import ConceptName
from contract.job import picture_key, thumbnail_key
from contract.result import Picture
from contract.review import Appealed, AppealRequest, Cause, DecisionRequest, Review, ReviewPage, ReviewState
from contract.strict import Strict
from service.authentication import Generating, Reviewing
from service.gateway import Here
from service.jobs import JobRecord
from service.json_only import require_json
from service.listing import Place
from service.problem_json import documented
from service.problems import (
    AlreadyDecided,
    AnotherPersonNeeded,
    BadRequest,
    InvalidRequest,
    JobNotFound,
    NotAppealable,
    PictureNotFound,
    ReviewNotFound,
    StoreAway,
    Unavailable,
    UnsupportedMediaType,
)
from service.reviews import WantedReviews
from service.routes.jobs import MEDIA_TYPES, JobId, Moment, bytes_at

log = logging.getLogger(__name__)

router = APIRouter(prefix="/reviews", tags=["reviews"])
appeals = APIRouter(prefix="/jobs", tags=["jobs"])

# Nobody but the reviewer: no cache, no frame, no page that learns where it came from.
_PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff"}
_BODY = (BadRequest, UnsupportedMediaType, InvalidRequest)
_DECISIONS: dict[str, Any] = {
    "released": {"summary": "It may be seen", "value": {"decision": "approve", "reason": "a carnival mask"}},
    "withheld": {
        "summary": "It may not, and what is in it",
        "value": {"decision": "reject", "reason": "a drawn weapon", "concepts": {"weapon": True}},
    },
}
APPEALS: dict[str, Any] = {
    "appealed": {"summary": "Another look at the first picture", "value": {"reason": "It is a carnival mask."}}
}
_BYTES = {"schema": {"type": "string", "format": "binary"}}

ReviewId = Annotated[
    str,
    Path(description="The picture's job and index.", examples=["7f9c24e5b3f14c0c8a5b0c7d5f0e6a11-0"]),
]


class ListedReviews(Strict):
    """Which reviews are listed."""

    state: list[ReviewState] = Field([], max_length=len(ReviewState), description="Any of these; none: all.")
    cause: Cause | None = None
    concept: ConceptName | None = Field(None, description="Found in the picture.")
    since: Moment | None = Field(None, description="Come up then or later.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the page before.")


@router.get("", operation_id="list_reviews", summary="Pictures before a person, newest first")
async def list_reviews(caller: Reviewing, gateway: Here, query: Annotated[ListedReviews, Query()]) -> ReviewPage:
    """The tenant's reviews. A page may hold fewer than `limit` and still have a next one."""
    wanted = WantedReviews(frozenset(query.state), query.cause, query.concept, query.since)
    after = Place.from_cursor(query.cursor)
    return await gateway.reviews.page(caller.tenant, wanted, query.limit, after)


@router.get(
    "/{review_id}", operation_id="get_review", summary="A picture before a person", responses=documented(ReviewNotFound)
)
async def get_review(review_id: ReviewId, caller: Reviewing, gateway: Here) -> Review:
    """The review as it stands, with every score of the picture."""
    return await gateway.reviews.one(review_id, caller.tenant)


@router.get(
    "/{review_id}/thumbnail",
    operation_id="get_review_thumbnail",
    summary="The picture past recognition",
    response_class=Response,
    responses={
        200: {"description": "The picture, small and blurred.", "content": {"image/png": _BYTES}},
        **documented(ReviewNotFound, PictureNotFound, StoreAway),
    },
)
async def get_review_thumbnail(review_id: ReviewId, caller: Reviewing, gateway: Here) -> Response:
    """For lists. It shows a few coarse colours, so that nobody sees more than they have decided to."""
    record, picture = await gateway.reviews.thumbnail_of(review_id, caller.tenant)
    content = await bytes_at(gateway.withheld, thumbnail_key(_key(record, picture)))
    return Response(content, headers=_PRIVATE, media_type="image/png")


@router.get(
    "/{review_id}/picture",
    operation_id="get_review_picture",
    summary="The picture itself",
    response_class=Response,
    responses={
        200: {
            "description": "The picture as it was judged.",
            "content": dict.fromkeys(MEDIA_TYPES.values(), _BYTES),
        },
        **documented(ReviewNotFound, PictureNotFound, StoreAway),
    },
)
async def get_review_picture(review_id: ReviewId, caller: Reviewing, gateway: Here) -> Response:
    """The withheld picture. Every request is put on record, with the key that asked."""
    record, picture = await gateway.reviews.shown(review_id, caller)
    content = await bytes_at(gateway.withheld if picture.kept else gateway.store, _key(record, picture))
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        log.error("the bytes of review %s are not those that were judged", review_id)
        raise PictureNotFound("The picture's bytes are not those that were judged.")
    return Response(content, headers=_PRIVATE, media_type=MEDIA_TYPES[record.job.output_format])


@router.post(
    "/{review_id}",
    operation_id="decide_review",
    summary="Decide on a picture",
    responses=documented(*_BODY, ReviewNotFound, AlreadyDecided, AnotherPersonNeeded, Unavailable),
    dependencies=[Depends(require_json)],
)
async def decide_review(
    review_id: ReviewId,
    body: Annotated[DecisionRequest, Body(openapi_examples=_DECISIONS)],
    caller: Reviewing,
    gateway: Here,
) -> Review:
    """Approve or reject. An approved picture is released: its verdict becomes `passed` by a person's decision, its
    address works, and the job's webhook is told. Where the policy wants two people, the first approval releases
    nothing; a rejection always holds at once. What is decided stays decided."""
    return await gateway.reviews.decide(review_id, caller, body)


@appeals.post(
    "/{job_id}/appeal",
    operation_id="appeal",
    summary="Have a person look at a blocked picture",
    status_code=202,
    responses=documented(*_BODY, JobNotFound, PictureNotFound, NotAppealable),
    dependencies=[Depends(require_json)],
)
async def appeal(
    job_id: JobId,
    body: Annotated[AppealRequest, Body(openapi_examples=APPEALS)],
    caller: Generating,
    gateway: Here,
) -> Appealed:
    """Put a blocked picture before a person, once. The decision is told by the job's result and its webhook.

    Where the policy does not keep blocked pictures, the person has the scores and the reasons alone. An overturned
    block then releases nothing: `POST /jobs/{job_id}/reproduce` makes the picture again, and a person sees it.
    """
    return await gateway.reviews.appeal(job_id, caller, body)


def _key(record: JobRecord, picture: Picture) -> str:
    job = record.job
    return picture_key(job.id, job.tenant, record.attempt, picture.index, job.output_format)
