"""Bodies over a limit are refused, and thrown away as they come.

An answer while the client still writes would often be lost: a connection closed on unread bytes is reset.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observing import request_id_of
from service.problem_json import refusal_response
from service.problems import BodyTooLarge, FieldError

DROPPED_MAX_BYTES = 32 * 1024 * 1024
DROPPED_MAX_S = 2.0


class BodyLimit:
    """Reads at most `max_bytes` of a body before the app sees any of it, whether its length was declared or not."""

    def __init__(self, app: ASGIApp, max_bytes: int, larger: Mapping[str, int] | None = None) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.larger = larger or {}  # by path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        limit = self.larger.get(scope["path"], self.max_bytes)
        messages = [] if _declares_more(scope, limit) else await _read(receive, limit)
        if not messages:
            if not _waits_to_be_asked(scope):
                await _drop(receive)
            refusal = BodyTooLarge(
                f"The body is larger than {limit} bytes; send less.",
                errors=(FieldError(field="body", message=f"must have at most {limit} bytes"),),
                headers={"Connection": "close"},
            )
            await refusal_response(refusal, request_id_of(scope))(scope, receive, send)
            return
        messages.reverse()

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        await self.app(scope, replay, send)


def _declares_more(scope: Scope, limit: int) -> bool:
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    return not declared.isdigit() or len(declared) > 15 or int(declared) > limit


async def _read(receive: Receive, limit: int) -> list[Message]:
    """The body's messages, or none of them when they are too much."""
    messages: list[Message] = []
    size = 0
    while True:
        message = await receive()
        size += len(message.get("body", b""))
        if size > limit:
            return []
        messages.append(message)
        if not message.get("more_body", False):
            return messages


def _waits_to_be_asked(scope: Scope) -> bool:
    """Whether the client sends the body only once it is asked to, as curl does with large ones."""
    return any(name == b"expect" and value.lower() == b"100-continue" for name, value in scope["headers"])


async def _drop(receive: Receive) -> None:
    """Read to the end and keep nothing, within bounds of bytes and time."""
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(DROPPED_MAX_S):
            while size < DROPPED_MAX_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):  # the end, or a client that has gone
                    return
