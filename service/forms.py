"""A route that takes a form as well as JSON: the form is read as the JSON that it stands for, and checked as such."""

import email.message
import json
from base64 import b64encode
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.types import Message

from contract.request import MAX_PICTURES
from service.problems import FieldError, InvalidRequest

LISTS = {"image": "images", "images": "images", "text": "texts", "texts": "texts"}  # a form repeats a field
AS_JSON = ("output",)
MOST_FIELDS = 100


def _described(**fields: Any) -> dict[str, Any]:
    """The form beside the JSON, for OpenAPI."""
    files = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "maxItems": MAX_PICTURES,
        "description": "Files, the field repeated.",
    }
    schema = {"type": "object", "properties": {"image": files, **fields}}
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}


DESCRIBED_FILES = _described()
DESCRIBED = _described(
    text={"type": "array", "items": {"type": "string"}, "description": "The field repeated."},
    model={"type": "string"},
    webhook_url={"type": "string"},
    output={"type": "string", "description": "As in JSON, written as JSON."},
)


class FormOrJson(APIRoute):
    """Turns multipart/form-data into JSON before the route reads it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, behind the translation."""
        handle = super().get_route_handler()

        async def translated(request: Request) -> Response:
            declared = email.message.Message()
            declared["content-type"] = request.headers.get("content-type", "")
            if declared.get_content_type() != "multipart/form-data":
                return await handle(request)
            return await handle(_with_json(request, await _read(request)))

        return translated


async def _read(request: Request) -> dict[str, Any]:
    try:
        async with request.form(max_files=MAX_PICTURES, max_fields=MOST_FIELDS, max_part_size=1 << 20) as form:
            return await _as_json(form)
    except (MultiPartException, HTTPException):
        message = f"does not read as a form of at most {MAX_PICTURES} files and {MOST_FIELDS} fields"
        raise InvalidRequest(FieldError(field="body", message=message)) from None


async def _as_json(form: FormData) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in form.multi_items():
        told: Any = b64encode(await value.read()).decode() if isinstance(value, UploadFile) else value
        if name in LISTS:
            read.setdefault(LISTS[name], []).append(told)
        elif name in AS_JSON:
            try:
                read[name] = json.loads(told)
            except ValueError:
                raise InvalidRequest(FieldError(field=name, message="must be JSON, as in a JSON request")) from None
        else:
            read[name] = told
    return read


def _with_json(request: Request, body: dict[str, Any]) -> Request:
    sent = json.dumps(body).encode()
    headers = [(name, value) for name, value in request.scope["headers"] if name not in (b"content-type",)]
    scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": sent, "more_body": False}

    return Request(scope, receive)
