"""Turns what goes wrong inside a request into problems."""

import logging
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import compile_path

from contract.wording import wording
from service.observing import request_id_of
from service.problem_json import problem_response, refusal_response
from service.problems import FieldError, InvalidRequest, RedisAway, Refusal

log = logging.getLogger(__name__)

# what FastAPI answers 400 to: bytes that are not UTF-8, nesting or numbers past what the reader takes
_UNREADABLE = FieldError(field="body", message="must be JSON in UTF-8, of ordinary depth and with ordinary numbers")
_HTTP_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}
_FORMS_OF_A_PLAN = {"name", "names", "plan"}
_GUIDANCE = {"negative", "sld", "sega"}
_RECIPES = {"esd-x", "esd-x-strict", "esd-u", "sdd", "uce"}


def add_error_handlers(app: FastAPI) -> None:
    """Let every error of a route leave as a problem."""

    @app.exception_handler(Refusal)
    async def refused(request: Request, error: Refusal) -> JSONResponse:
        return refusal_response(error, request_id_of(request.scope))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        refusal = InvalidRequest(*map(_field_error, filter(_is_a_cause, error.errors())))
        return refusal_response(refusal, request_id_of(request.scope))

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        code = _HTTP_CODES.get(error.status_code, f"http_{error.status_code}")
        detail = {
            404: "There is nothing at this address; GET /openapi.json lists what there is.",
            405: "This address does not serve that method; the Allow header names those it does.",
            400: "The body cannot be read.",
        }.get(error.status_code, str(error.detail))
        errors = (_UNREADABLE,) if error.status_code == 400 else ()
        # Starlette names the methods of the first route at this address only.
        allowed = allowed_methods(app, request.url.path) if error.status_code == 405 else ""
        headers = {"Allow": allowed} if allowed else error.headers
        request_id = request_id_of(request.scope)
        return problem_response(error.status_code, code, detail, request_id, errors=errors, headers=headers)

    @app.exception_handler(RedisConnectionError)
    @app.exception_handler(RedisTimeoutError)
    @app.exception_handler(OutOfMemoryError)
    @app.exception_handler(ReadOnlyError)
    async def redis_away(request: Request, error: Exception) -> JSONResponse:
        request_id = request_id_of(request.scope)
        log.warning("request %s: Redis failed: %s", request_id, type(error).__name__)
        return refusal_response(RedisAway(), request_id)

    @app.exception_handler(ResponseError)
    async def redis_refuses(request: Request, error: ResponseError) -> JSONResponse:
        # Full, or its disk full or broken, told out of a script; anything else is our own mistake.
        if not any(word in str(error) for word in ("OOM", "MISCONF", "READONLY")):
            raise error
        return await redis_away(request, error)


def allowed_methods(app: FastAPI, path: str) -> str:
    """The methods of every route at this path, as the Allow header lists them."""
    described = app.openapi()["paths"].items()
    found = {
        method.upper() for template, methods in described if compile_path(template)[0].match(path) for method in methods
    }
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found))


def _is_a_cause(error: dict[str, Any]) -> bool:
    """False of an array that is too short only as pydantic counts: without the entries that are wrong themselves."""
    sent = error["input"]
    return not (error["type"] == "too_short" and isinstance(sent, list) and len(sent) >= error["ctx"]["min_length"])


def _field_error(error: dict[str, Any]) -> FieldError:
    kind, location = error["type"], error["loc"]
    if kind == "json_invalid":
        return FieldError(field="body", message=f"is not JSON: {error['ctx']['error']} at position {location[1]}")
    return FieldError(field=field_name(location), message=wording(error))


def field_name(location: Sequence[int | str]) -> str:
    """`("body", "safety", "plan", "guidance", "sld", "scale")` → `"safety.guidance.scale"`, as the caller wrote it."""
    parts = [str(part) for part in location]
    written = parts[1:] if len(parts) > 1 else parts
    place = {"safety": 1, "plans": 2}.get(written[0], len(written))  # where a plan begins
    if len(written) > place and written[place] in _FORMS_OF_A_PLAN:
        del written[place]
    if len(written) > place + 1 and written[place] == "guidance" and written[place + 1] in _GUIDANCE:
        del written[place + 1]
    if written[0] == "recipe" and len(written) > 1 and written[1] in _RECIPES:
        del written[1]
    return ".".join(written)
