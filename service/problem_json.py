"""RFC 9457: a refusal as the answer it gets, and as the OpenAPI document tells of it beforehand."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from service.problems import MAX_FIELD, FieldError, InvalidRequest, Refusal

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
MAX_MESSAGE = 400


class Problem(BaseModel):
    """An RFC 9457 problem."""

    type: str = Field(description="Names the kind of problem.", examples=["urn:seemly:problem:invalid_request"])
    title: str
    status: int
    detail: str
    code: str = Field(description="Stable name of the kind of problem, for programs.", examples=["invalid_request"])
    request_id: str = Field(description="As in the response's X-Request-ID, and in the service's log.")
    errors: list[FieldError] = Field(default=[], description="The fields concerned, when the request itself is wrong.")


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
    told = [
        FieldError(field=_printable(error.field, MAX_FIELD), message=_printable(error.message, MAX_MESSAGE))
        for error in errors[:MAX_ERRORS]
    ]
    problem = _problem(status, code, _printable(detail, 2 * MAX_MESSAGE), request_id, told)
    return JSONResponse(problem, status, dict(headers or {}), MEDIA_TYPE)


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
    value = _problem(refusal.status, refusal.code, why, "3f0c9d1be7f24c0e9d5b0a4b6c1e2d3f", errors)
    return {"summary": why, "value": value}


def _problem(status: int, code: str, detail: str, request_id: str, errors: list[FieldError]) -> dict[str, Any]:
    problem = Problem(
        type=f"urn:seemly:problem:{code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=request_id,
        errors=errors,
    )
    return problem.model_dump()


def _printable(text: str, limit: int) -> str:
    """Cut to size, and without what UTF-8 cannot carry."""
    cut = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return cut.encode(errors="backslashreplace").decode()
