"""What the pictures drawn of a job's result have in common over HTTP."""

import hashlib
from typing import Any

from fastapi import Request, Response

from contract.result import JobView
from service.problem_json import documented
from service.problems import Refusal


def answers_of_a_drawing(description: str, *refusals: type[Refusal]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that draws."""
    return {
        200: {
            "description": description,
            "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
            "headers": {"ETag": {"description": "Of the result that was drawn.", "schema": {"type": "string"}}},
        },
        304: {"description": "As the caller has it."},
        **documented(*refusals),
    }


def headers_of(view: JobView) -> dict[str, str]:
    """A drawing is as new as the result it is drawn from."""
    return {
        "ETag": f'W/"{hashlib.sha256(view.model_dump_json().encode()).hexdigest()}"',
        "Cache-Control": "private",
        "X-Content-Type-Options": "nosniff",
    }


def unchanged(request: Request, headers: dict[str, str]) -> Response | None:
    """304 when the caller has the drawing already."""
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return None
