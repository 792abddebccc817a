"""Everything the gateway refuses, by what refuses it. A kind's code is its name for programs, and never changes.

    Refusal
    ├── the door            400 BadRequest   401 Unauthenticated   403 MissingScope, ForeignOrigin
    │                       413 BodyTooLarge   415 UnsupportedMediaType   421 ForeignHost   429 TooManyRequests
    │                       503 RedisAway, NotReady
    ├── making it a job     403 ForbiddenByPolicy, PromptRefused   409 NotReproducible, VariantExists
    │                       422 InvalidRequest, IdempotencyKeyReused
    │                       429 TooManyJobs, TooMuchWork, TooManyRefusals, TooManyWebhooks
    │                       503 NoModel, NoLab, PolicyNotServed, QueueFull
    ├── a job on record     404 JobNotFound   409 AlreadyFinished   410 ResultExpired   500 RecordDamaged
    ├── pictures            403 InvalidLink   404 PictureNotFound, PictureNotReady, PictureWithheld, NothingToDraw
    │                       410 LinkExpired   503 StoreAway, DrawingBusy, ModerationBusy, NotJudged
    ├── people              404 ReviewNotFound   409 AlreadyDecided, AnotherPersonNeeded, NotAppealable
    │                       503 Unavailable
    ├── who runs it         404 PolicyNotFound, VariantNotFound, DeliveryNotFound   409 PolicyExists, NotPromoted
    │                       503 NotMoved
    └── OpenAI's route      400 PicturesBlocked   409 JobCanceled   500 JobFailed   504 NotInTime

All of 429 are OverLimit and all of 503 Unavailable: they always come with Retry-After. PromptRefused stands in
`service.refused_prompts`, those of OpenAI's route in `service.compatible.errors`; `service.problem_json` makes them
answers. What a caller sent is never told back: fields are named, values are not.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from pydantic import BaseModel

MAX_FIELD = 120  # characters of a field's name that are told


class FieldError(BaseModel):
    """What is wrong with one field of the request, and how to mend it."""

    field: str
    message: str


class Refusal(Exception):
    """A request that is not served, with the answer it gets."""

    status: ClassVar[int]
    code: ClassVar[str]

    def __init_subclass__(cls, *, status: int | None = None, code: str | None = None) -> None:
        """Take over what a kind names; what it does not is its parent's."""
        cls.status, cls.code = status or cls.status, code or cls.code

    def __init__(
        self, detail: str, *, errors: tuple[FieldError, ...] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


class OverLimit(Refusal, status=429, code="over_limit"):
    """The tenant, or the end user, has used what it may; `Retry-After` says when there may be more."""

    def __init__(self, detail: str, retry_after_s: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s))), **(headers or {})})


class Unavailable(Refusal, status=503, code="unavailable"):
    """Not now; `Retry-After` says when to come back."""

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class BadRequest(Refusal, status=400, code="bad_request"):
    """A header or the request's form is wrong."""


class Unauthenticated(Refusal, status=401, code="unauthenticated"):
    """No API key, or one that is not valid."""

    def __init__(self, detail: str, *, is_invalid: bool = False) -> None:
        challenge = 'Bearer error="invalid_token"' if is_invalid else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class MissingScope(Refusal, status=403, code="missing_scope"):
    """The API key is valid, but not for this."""

    def __init__(self, scopes: Sequence[str]) -> None:
        named = " ".join(scopes)
        challenge = f'Bearer error="insufficient_scope", scope="{named}"'
        super().__init__(f"The API key lacks the scope: {named}.", headers={"WWW-Authenticate": challenge})


class ForeignOrigin(Refusal, status=403, code="foreign_origin"):
    """A web page from elsewhere sent this."""


class BodyTooLarge(Refusal, status=413, code="body_too_large"):
    """The body is over the limit, and was thrown away."""


class UnsupportedMediaType(Refusal, status=415, code="unsupported_media_type"):
    """The body is not JSON by its own account."""


class ForeignHost(Refusal, status=421, code="foreign_host"):
    """The request was meant for a name that is not this machine's own."""


class TooManyRequests(OverLimit, code="too_many_requests"):
    """More requests than the tenant's rate."""


class RedisAway(Unavailable, code="redis_unavailable"):
    """Redis does not answer, or refuses to write."""

    def __init__(self) -> None:
        super().__init__("The queue does not answer; try again soon.", retry_after_s=2)


class NotReady(Unavailable, code="not_ready"):
    """A part that serving needs is missing."""


class ForbiddenByPolicy(Refusal, status=403, code="forbidden_by_policy"):
    """The policy in force does not allow what was asked for."""


class NotReproducible(Refusal, status=409, code="not_reproducible"):
    """The job made no pictures, or asked for what is served no more."""


class VariantExists(Refusal, status=409, code="variant_exists"):
    """The model has a variant of this name, or one is being made."""


class InvalidRequest(Refusal, status=422, code="invalid_request"):
    """Fields of the request cannot be served as they are."""

    def __init__(self, *errors: FieldError) -> None:
        fields = list(dict.fromkeys(error.field for error in errors))
        named = ", ".join(field[:MAX_FIELD] for field in fields[:5]) + (" and others" if len(fields) > 5 else "")
        super().__init__(f"The request cannot be served as it is: see {named}.", errors=errors)


class IdempotencyKeyReused(Refusal, status=422, code="idempotency_key_reused"):
    """The key came with another request before."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came with another request before; send a new one with a new request.")


class TooManyJobs(OverLimit, code="too_many_jobs"):
    """As many unfinished jobs as the tenant may have."""


class TooMuchWork(OverLimit, code="too_much_work"):
    """Unfinished jobs of as much cost as the tenant may have."""


class TooManyRefusals(OverLimit, code="too_many_refusals"):
    """Too many prompts of this end user were refused, or pictures blocked."""


class TooManyWebhooks(OverLimit, code="too_many_webhooks"):
    """As many undelivered webhooks as the tenant may have."""


class NoModel(Unavailable, code="no_model"):
    """No worker has announced the model."""


class NoLab(Unavailable, code="no_lab"):
    """No lab worker has announced that it makes variants of the model."""


class PolicyNotServed(Unavailable, code="policy_not_served"):
    """The policy's floor needs what the workers do not serve."""


class QueueFull(Unavailable, code="queue_full"):
    """As many jobs wait as may wait."""


class JobNotFound(Refusal, status=404, code="job_not_found"):
    """No such job, or another tenant's."""

    def __init__(self) -> None:
        super().__init__(
            "There is no such job here. Its id came with the answer that accepted it; results are kept for a limited"
            " time."
        )


class AlreadyFinished(Refusal, status=409, code="already_finished"):
    """Nothing is left to cancel."""


class ResultExpired(Refusal, status=410, code="result_expired"):
    """The job is over, and its record was kept for its time."""

    def __init__(self) -> None:
        super().__init__("This job's result is no longer kept.")


class RecordDamaged(Refusal, status=500, code="record_damaged"):
    """The job's record cannot be read."""

    def __init__(self) -> None:
        super().__init__("The job's record was damaged and cannot be read; the service's log has more.")


class InvalidLink(Refusal, status=403, code="invalid_link"):
    """A signed address that was not signed here, or whose job is forgotten."""


class PictureNotFound(Refusal, status=404, code="picture_not_found"):
    """The job has no such picture, or its bytes are no longer kept."""


class PictureNotReady(Refusal, status=404, code="picture_not_ready"):
    """The job is not finished."""


class PictureWithheld(Refusal, status=404, code="picture_withheld"):
    """The picture's verdict is another than passed."""


class NothingToDraw(Refusal, status=404, code="nothing_to_draw"):
    """The job ended before any of its pictures was scored."""


class LinkExpired(Refusal, status=410, code="link_expired"):
    """A signed address past its time."""


class StoreAway(Unavailable, code="store_unavailable"):
    """The store of pictures does not answer."""

    def __init__(self) -> None:
        super().__init__("The store of pictures does not answer; try again soon.", retry_after_s=5)


class DrawingBusy(Unavailable, code="drawing_busy"):
    """As many explanations wait to be drawn as may wait."""


class ModerationBusy(Unavailable, code="moderation_busy"):
    """As many moderations are in hand as may be."""


class NotJudged(Unavailable, code="not_judged"):
    """What was sent could not be judged, or not in time; nothing is known of it."""


class ReviewNotFound(Refusal, status=404, code="review_not_found"):
    """No such review, or another tenant's."""


class AlreadyDecided(Refusal, status=409, code="already_decided"):
    """A person has decided on the picture."""


class AnotherPersonNeeded(Refusal, status=409, code="another_person_needed"):
    """The policy wants a second person, and this one was the first."""


class NotAppealable(Refusal, status=409, code="not_appealable"):
    """The picture is not withheld, or is before a person, or was."""


class PolicyNotFound(Refusal, status=404, code="policy_not_found"):
    """No such policy, or no such version of it."""

    def __init__(self) -> None:
        super().__init__("There is no such policy, or no such version of it; GET /policies lists all.")


class VariantNotFound(Refusal, status=404, code="variant_not_found"):
    """The model has no variant of this name."""

    def __init__(self) -> None:
        super().__init__("The model has no variant of this name; GET /variants lists them.")


class DeliveryNotFound(Refusal, status=404, code="delivery_not_found"):
    """No such delivery of a webhook, or another tenant's."""


class PolicyExists(Refusal, status=409, code="policy_exists"):
    """A version never changes, so its number is taken."""


class NotPromoted(Refusal, status=409, code="not_promoted"):
    """The variant has not passed its gate, or is available already."""


class NotMoved(Unavailable, code="not_moved"):
    """No worker has promoted or retired the variant in time, or it could not."""
