"""Everything the gateway refuses, as RFC 9457 problems.

    Refusal                      status  code
    ├── BadRequest               400     bad_request
    ├── Unauthenticated          401     unauthenticated       always with WWW-Authenticate
    ├── MissingScope             403     missing_scope
    ├── ForbiddenByPolicy        403     forbidden_by_policy
    ├── ForeignOrigin            403     foreign_origin
    ├── InvalidLink              403     invalid_link
    ├── JobNotFound              404     job_not_found
    ├── PictureNotFound          404     picture_not_found
    ├── PictureNotReady          404     picture_not_ready
    ├── PictureWithheld          404     picture_withheld
    ├── NothingToDraw            404     nothing_to_draw
    ├── DeliveryNotFound         404     delivery_not_found
    ├── PolicyNotFound           404     policy_not_found
    ├── VariantNotFound          404     variant_not_found
    ├── AlreadyFinished          409     already_finished
    ├── NotReproducible          409     not_reproducible
    ├── PolicyExists             409     policy_exists
    ├── NotPromoted              409     not_promoted
    ├── VariantExists            409     variant_exists
    ├── ResultExpired            410     result_expired
    ├── LinkExpired              410     link_expired
    ├── BodyTooLarge             413     body_too_large
    ├── UnsupportedMediaType     415     unsupported_media_type
    ├── ForeignHost              421     foreign_host
    ├── InvalidRequest           422     invalid_request       names the fields
    ├── IdempotencyKeyReused     422     idempotency_key_reused
    ├── OverLimit                429     always with Retry-After
    │   ├── TooManyRequests              too_many_requests
    │   ├── TooManyJobs                  too_many_jobs
    │   ├── TooMuchWork                  too_much_work
    │   ├── TooManyRefusals              too_many_refusals
    │   └── TooManyWebhooks              too_many_webhooks
    ├── RecordDamaged            500     record_damaged
    └── Unavailable              503     unavailable           always with Retry-After
        ├── NoModel                      no_model
        ├── NoLab                        no_lab
        ├── NotMoved                     not_moved
        ├── PolicyNotServed              policy_not_served
        ├── QueueFull                    queue_full
        ├── ModerationBusy               moderation_busy
        ├── NotJudged                    not_judged
        ├── DrawingBusy                  drawing_busy
        ├── NotReady                     not_ready
        ├── StoreAway                    store_unavailable
        └── RedisAway                    redis_unavailable

What a caller sent is never told back: fields are named, values are not.
"""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar

from fastapi.encoders import jsonable_encoder
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
MAX_MESSAGE = 400
MAX_FIELD = 120


class FieldError(BaseModel):
    """What is wrong with one field of the request, and how to mend it."""

    field: str
    message: str


class Problem(BaseModel):
    """An RFC 9457 problem."""

    type: str = Field(description="Names the kind of problem.", examples=["urn:seemly:problem:invalid_request"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name of the kind of problem, for programs.", examples=["invalid_request"])
    request_id: str = Field(description="As in the response's X-Request-ID, and in the service's log.")
    errors: list[FieldError] = Field(default=[], description="The fields concerned, when the request itself is wrong.")


class Refusal(Exception):
    """A request that is not served, with the answer it gets."""

    status: ClassVar[int]
    code: str

    def __init__(
        self, detail: str, *, errors: tuple[FieldError, ...] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


class BadRequest(Refusal):
    """A header or the request's form is wrong."""

    status, code = 400, "bad_request"


class Unauthenticated(Refusal):
    """No API key, or one that is not valid."""

    status, code = 401, "unauthenticated"

    def __init__(self, detail: str, *, is_invalid: bool = False) -> None:
        challenge = 'Bearer error="invalid_token"' if is_invalid else "Bearer"
        super().__init__(detail, headers={"WWW-Authenticate": challenge})


class MissingScope(Refusal):
    """The API key is valid, but not for this."""

    status, code = 403, "missing_scope"

    def __init__(self, scopes: Sequence[str]) -> None:
        named = " ".join(scopes)
        challenge = f'Bearer error="insufficient_scope", scope="{named}"'
        super().__init__(f"The API key lacks the scope: {named}.", headers={"WWW-Authenticate": challenge})


class ForbiddenByPolicy(Refusal):
    """The policy in force does not allow what was asked for."""

    status, code = 403, "forbidden_by_policy"


class ForeignOrigin(Refusal):
    """A web page from elsewhere sent this."""

    status, code = 403, "foreign_origin"


class InvalidLink(Refusal):
    """A signed address that was not signed here, or whose job is forgotten."""

    status, code = 403, "invalid_link"

    def __init__(self) -> None:
        super().__init__("This link is not valid, or nothing is kept any longer of the job that it leads to.")


class JobNotFound(Refusal):
    """No such job, or another tenant's."""

    status, code = 404, "job_not_found"

    def __init__(self) -> None:
        super().__init__(
            "There is no such job here. Its id came with the answer that accepted it; results are kept for a limited"
            " time."
        )


class PictureNotFound(Refusal):
    """The job has no such picture, or its bytes are no longer kept."""

    status, code = 404, "picture_not_found"


class PictureNotReady(Refusal):
    """The job is not finished."""

    status, code = 404, "picture_not_ready"


class PictureWithheld(Refusal):
    """The picture's verdict is another than passed."""

    status, code = 404, "picture_withheld"


class NothingToDraw(Refusal):
    """The job ended before any of its pictures was scored."""

    status, code = 404, "nothing_to_draw"


class DeliveryNotFound(Refusal):
    """No such delivery of a webhook, or another tenant's."""

    status, code = 404, "delivery_not_found"

    def __init__(self) -> None:
        super().__init__(
            "There is no such delivery. Ids come from GET /webhooks/deliveries; they are kept for some days."
        )


class PolicyNotFound(Refusal):
    """No such policy, or no such version of it."""

    status, code = 404, "policy_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such policy, or no such version of it; GET /policies lists all.")


class PolicyExists(Refusal):
    """A version never changes, so its number is taken."""

    status, code = 409, "policy_exists"

    def __init__(self, policy_id: str, version: int) -> None:
        super().__init__(f"Version {version} of {policy_id!r} exists with another content; raise the version.")


class ReviewNotFound(Refusal):
    """No such review, or another tenant's."""

    status, code = 404, "review_not_found"

    def __init__(self) -> None:
        super().__init__("There is no such review. Ids come from GET /reviews; they are kept for some days.")


class AlreadyDecided(Refusal):
    """A person has decided on the picture."""

    status, code = 409, "already_decided"


class AnotherPersonNeeded(Refusal):
    """The policy wants a second person, and this one was the first."""

    status, code = 409, "another_person_needed"

    def __init__(self) -> None:
        super().__init__("You have approved this picture; another person must as well, with a key of their own.")


class NotAppealable(Refusal):
    """The picture is not withheld, or is before a person, or was."""

    status, code = 409, "not_appealable"


class VariantNotFound(Refusal):
    """The model has no variant of this name."""

    status, code = 404, "variant_not_found"

    def __init__(self) -> None:
        super().__init__("The model has no variant of this name; GET /variants lists them.")


class NotPromoted(Refusal):
    """The variant has not passed its gate, or is available already."""

    status, code = 409, "not_promoted"


class AlreadyFinished(Refusal):
    """Nothing is left to cancel."""

    status, code = 409, "already_finished"


class VariantExists(Refusal):
    """The model has a variant of this name, or one is being made."""

    status, code = 409, "variant_exists"


class NotReproducible(Refusal):
    """The job made no pictures that could be made again."""

    status, code = 409, "not_reproducible"


class ResultExpired(Refusal):
    """The job is over, and its record was kept for its time."""

    status, code = 410, "result_expired"

    def __init__(self) -> None:
        super().__init__("This job's result is no longer kept.")


class LinkExpired(Refusal):
    """A signed address past its time."""

    status, code = 410, "link_expired"

    def __init__(self) -> None:
        super().__init__("This link has expired; ask for the job again, with `links_for_s`, for a new one.")


class BodyTooLarge(Refusal):
    """The body is over the limit, and was thrown away."""

    status, code = 413, "body_too_large"


class UnsupportedMediaType(Refusal):
    """The body is not JSON by its own account."""

    status, code = 415, "unsupported_media_type"


class ForeignHost(Refusal):
    """The request was meant for a name that is not this machine's own."""

    status, code = 421, "foreign_host"


class InvalidRequest(Refusal):
    """Fields of the request cannot be served as they are."""

    status, code = 422, "invalid_request"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__(_named(errors), errors=errors)


class IdempotencyKeyReused(Refusal):
    """The key came with another request before."""

    status, code = 422, "idempotency_key_reused"

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key came with another request before; send a new one with a new request.")


class OverLimit(Refusal):
    """The tenant, or the end user, has used what it may; `Retry-After` says when there may be more."""

    status, code = 429, "over_limit"

    def __init__(self, detail: str, retry_after_s: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s))), **(headers or {})})


class TooManyRequests(OverLimit):
    """More requests than the tenant's rate."""

    code = "too_many_requests"


class TooManyJobs(OverLimit):
    """As many unfinished jobs as the tenant may have."""

    code = "too_many_jobs"


class TooMuchWork(OverLimit):
    """Unfinished jobs of as much cost as the tenant may have."""

    code = "too_much_work"


class TooManyRefusals(OverLimit):
    """Too many prompts of this end user were refused, or pictures blocked."""

    code = "too_many_refusals"


class TooManyWebhooks(OverLimit):
    """As many undelivered webhooks as the tenant may have."""

    code = "too_many_webhooks"


class RecordDamaged(Refusal):
    """The job's record cannot be read."""

    status, code = 500, "record_damaged"

    def __init__(self) -> None:
        super().__init__("The job's record was damaged and cannot be read; the service's log has more.")


class Unavailable(Refusal):
    """Not now; `Retry-After` says when to come back."""

    status, code = 503, "unavailable"

    def __init__(self, detail: str, retry_after_s: float) -> None:
        super().__init__(detail, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class NoModel(Unavailable):
    """No worker has announced the model."""

    code = "no_model"


class NoLab(Unavailable):
    """No lab worker has announced that it makes variants of the model."""

    code = "no_lab"


class NotMoved(Unavailable):
    """No worker has promoted or retired the variant in time, or it could not."""

    code = "not_moved"


class PolicyNotServed(Unavailable):
    """The policy's floor needs what the workers do not serve."""

    code = "policy_not_served"


class QueueFull(Unavailable):
    """As many jobs wait as may wait."""

    code = "queue_full"


class ModerationBusy(Unavailable):
    """As many moderations are in hand as may be."""

    code = "moderation_busy"


class NotJudged(Unavailable):
    """Uploads could not be judged, or not in time; nothing is known of them."""

    code = "not_judged"


class DrawingBusy(Unavailable):
    """As many explanations wait to be drawn as may wait."""

    code = "drawing_busy"


class NotReady(Unavailable):
    """A part that serving needs is missing."""

    code = "not_ready"


class StoreAway(Unavailable):
    """The store of pictures does not answer."""

    code = "store_unavailable"

    def __init__(self) -> None:
        super().__init__("The store of pictures does not answer; try again soon.", retry_after_s=5)


class RedisAway(Unavailable):
    """Redis does not answer, or refuses to write."""

    code = "redis_unavailable"

    def __init__(self) -> None:
        super().__init__("The queue does not answer; try again soon.", retry_after_s=2)


def problem_response(
    status: int,
    code: str,
    detail: str,
    request_id: str,
    *,
    errors: tuple[FieldError, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """The answer that carries a problem."""
    problem = Problem(
        type=f"urn:seemly:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=_printable(detail, 2 * MAX_MESSAGE),
        code=code,
        request_id=request_id,
        errors=[
            FieldError(field=_printable(error.field, MAX_FIELD), message=_printable(error.message, MAX_MESSAGE))
            for error in errors[:MAX_ERRORS]
        ],
    )
    return JSONResponse(
        jsonable_encoder(problem), status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {})
    )


def refusal_response(refusal: Refusal, request_id: str) -> JSONResponse:
    """The answer to a refused request."""
    return problem_response(
        refusal.status, refusal.code, refusal.detail, request_id, errors=refusal.errors, headers=refusal.headers
    )


def documented(*refusals: type[Refusal] | int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI entries of the problems that a route may answer with; of a status alone, without saying which."""
    retry = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string", "pattern": "^[0-9]+$"}}}
    challenge = {"WWW-Authenticate": {"description": "RFC 6750.", "schema": {"type": "string", "pattern": "^Bearer"}}}
    headers = {401: challenge, 429: retry, 503: retry}
    entries: dict[int | str, dict[str, Any]] = {}
    for refusal in refusals:
        status = refusal if isinstance(refusal, int) else refusal.status
        told = {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
        entry = entries.setdefault(
            status,
            {
                "description": HTTPStatus(status).phrase,
                "content": {MEDIA_TYPE: told},
                **({"headers": headers[status]} if status in headers else {}),
            },
        )
        if not isinstance(refusal, int):
            entry["content"][MEDIA_TYPE]["examples"][refusal.code] = _example(refusal)
    return entries


def _example(refusal: type[Refusal]) -> dict[str, Any]:
    why = (refusal.__doc__ or "").partition("\n")[0]
    errors = [FieldError(field="steps", message="must be at most 150")] if refusal is InvalidRequest else []
    problem = Problem(
        type=f"urn:seemly:problem:{refusal.code}",
        title=HTTPStatus(refusal.status).phrase,
        status=refusal.status,
        detail=why,
        code=refusal.code,
        request_id="3f0c9d1be7f24c0e9d5b0a4b6c1e2d3f",
        errors=errors,
    )
    return {"summary": why, "value": problem.model_dump()}


def _named(errors: tuple[FieldError, ...]) -> str:
    fields = list(dict.fromkeys(error.field for error in errors))
    named = ", ".join(field[:MAX_FIELD] for field in fields[:5]) + (" and others" if len(fields) > 5 else "")
    return f"The request cannot be served as it is: see {named}."


def _printable(text: str, limit: int) -> str:
    """Cut to size, and without what UTF-8 cannot carry."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return cut.encode(errors="backslashreplace").decode()
