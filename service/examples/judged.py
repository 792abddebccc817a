"""Uploads that were judged, and what people look at."""

from datetime import timedelta

from pydantic import BaseModel

from contract.job import PolicyRef
from contract.moderation import ModeratedPicture, Moderation
from contract.result import Status
from contract.review import Appealed, Cause, Review, ReviewPage, ReviewState, review_id
from service.compatible.moderations import ImageInput, ImageUrl, ModerationsRequest, answer_of
from service.examples.a_job import BLOCKED, FINISHED, ID, SHA256

_MODERATION = Moderation(
    id=ID,
    model="demo",
    policy=PolicyRef(id="default", version=1),
    flagged=True,
    images=(
        ModeratedPicture(
            index=0,
            verdict=BLOCKED.verdict,
            action=BLOCKED.action,
            sha256=SHA256,
            width=64,
            height=64,
            concepts=BLOCKED.concepts,
            reasons=BLOCKED.reasons,
            error=None,
        ),
    ),
    texts=(),
)
_PART = ImageInput(type="image_url", image_url=ImageUrl(url="data:image/png;base64,iVBORw0KGgo="))
_REVIEW = Review(
    id=review_id(ID, 0),
    state=ReviewState.WAITING,
    cause=Cause.APPEAL,
    appeal="It is a carnival mask.",
    created_at=FINISHED + timedelta(minutes=4),
    job_id=ID,
    index=0,
    verdict=BLOCKED.verdict,
    action=BLOCKED.action,
    seed=BLOCKED.seed,
    width=BLOCKED.width,
    height=BLOCKED.height,
    model="demo",
    policy=PolicyRef(id="default", version=1),
    concepts=BLOCKED.concepts,
    reasons=BLOCKED.reasons,
    opinions=(),
    reviewers=1,
    prompt=None,
    thumbnail_url=f"/reviews/{review_id(ID, 0)}/thumbnail",
    picture_url=f"/reviews/{review_id(ID, 0)}/picture",
)

EXAMPLES: tuple[BaseModel, ...] = (
    _MODERATION,
    answer_of(ModerationsRequest(input=(_PART,)), _MODERATION, ID),
    _REVIEW,
    ReviewPage(reviews=(_REVIEW,), next_cursor=None),
    Appealed(review_id=_REVIEW.id, job_id=ID, index=0, state=ReviewState.WAITING, job_status=Status.PARTIAL),
)
