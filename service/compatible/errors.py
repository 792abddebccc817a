"""Errors as OpenAI's clients know them, below `/v1` only.

Four refusals are this route's own. Whatever else goes wrong (`service.problems`) is translated as it leaves.
"""

from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.compatible.request import OWN_NAMES
from service.jobs import JobRecord
from service.problem_json import MEDIA_TYPE, Problem
from service.problems import FieldError, Refusal
from service.refused_prompts import PromptRefused

PREFIX = "/v1/"

_BLOCKED = "moderation_blocked"
_CODES = {
    PromptRefused.code: _BLOCKED,
    "unauthenticated": "invalid_api_key",
    "too_many_requests": "rate_limit_exceeded",
}
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


# OpenAI's clients send 409s and 5xx again unless told not to; after a job was made that would make another.
NOT_AGAIN = {"X-Should-Retry": "false"}


class PicturesBlocked(Refusal, status=400, code=_BLOCKED):
    """No picture passed. A prompt that the policy's rules refuse is told by the same code."""

    def __init__(self, record: JobRecord) -> None:
        reasons = dict.fromkeys(reason for picture in record.pictures for reason in picture.reasons)
        super().__init__(f"No picture passed: {'; '.join(reasons)}. GET /jobs/{record.job.id} tells what was found.")


class JobCanceled(Refusal, status=409, code="job_canceled"):
    """Somebody canceled the job while this request waited for it."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"Job {job_id} was canceled.", headers=NOT_AGAIN)


class JobFailed(Refusal, status=500, code="job_failed"):
    """The job ended without a verdict on any picture."""

    def __init__(self, record: JobRecord) -> None:
        error = record.view.error
        super().__init__(f"Job {record.job.id} failed{f': {error.message}' if error else '.'}", headers=NOT_AGAIN)


class NotInTime(Refusal, status=504, code="not_in_time"):
    """The job goes on, and this request waits for it no longer. Sent again, it would make another."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"The pictures are not finished yet. The job goes on: GET /jobs/{job_id} tells what becomes of it.",
            headers={"Location": f"/jobs/{job_id}", **NOT_AGAIN},
        )


class OpenAIError(BaseModel):
    """What went wrong."""

    message: str
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(description="The first field concerned.")
    code: str = Field(description="Stable name of the kind of error, for programs.", examples=["invalid_request"])


class ErrorAnswer(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIError


def error_of(status: int, code: str, detail: str, errors: tuple[FieldError, ...] = ()) -> ErrorAnswer:
    """A problem's status, code, detail and fields in OpenAI's shape."""
    named = [FieldError(field=OWN_NAMES.get(error.field, error.field), message=error.message) for error in errors]
    return ErrorAnswer(
        error=OpenAIError(
            message=" ".join(dict.fromkeys(f"{error.field}: {error.message}." for error in named)) or detail,
            type=_type_of(status, _CODES.get(code, code)),
            param=named[0].field if named else None,
            code=_CODES.get(code, code),
        )
    )


def status_of(status: int, code: str) -> int:
    """As which a problem leaves: OpenAI has no 422, and its clients know a refused prompt as a bad request."""
    return 400 if status == 422 or code == PromptRefused.code else status


def _type_of(status: int, code: str) -> str:
    if code == _BLOCKED:
        return "image_generation_user_error"
    return "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")


class OpenAIErrors:
    """Translates every problem that leaves a route below `/v1`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await self.app(scope, receive, send)
            return
        held: Message | None = None

        async def send_translated(message: Message) -> None:
            nonlocal held
            if message["type"] == "http.response.start":
                if MutableHeaders(raw=message["headers"]).get("content-type") == MEDIA_TYPE:
                    held = message  # its body comes whole, in the next message
                    return
            elif held is not None:
                await _translated(held, message["body"])(scope, receive, send)
                return
            await send(message)

        await self.app(scope, receive, send_translated)


def _translated(start: Message, body: bytes) -> JSONResponse:
    problem = Problem.model_validate_json(body)
    told = error_of(problem.status, problem.code, problem.detail, tuple(problem.errors))
    kept = MutableHeaders(raw=start["headers"])
    del kept["content-type"], kept["content-length"]
    return JSONResponse(told.model_dump(), status_of(problem.status, problem.code), dict(kept))
