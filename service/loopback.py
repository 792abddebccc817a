"""While there are no API keys, this machine is the key: what a web page from elsewhere sends is refused.

Once there are keys, no page has one, and the service may be reached by any name.

A page can reach loopback through its reader's browser: by a form (which says its Origin), or by a name of its own that
it lets point to 127.0.0.1 (DNS rebinding; the Host header holds that name). Programs send no Origin; for them curl's
own content type is taken as what it is, JSON.
"""

import ipaddress
import re

from redis.exceptions import RedisError
from starlette.types import ASGIApp, Receive, Scope, Send

from service.callers import Callers
from service.observing import request_id_of
from service.problem_json import refusal_response
from service.problems import ForeignHost, ForeignOrigin, Refusal

_LOCAL = rb"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"
_HOST = re.compile(_LOCAL, re.IGNORECASE)
_ORIGIN = re.compile(rb"https?://" + _LOCAL, re.IGNORECASE)
_FORM = b"application/x-www-form-urlencoded"
_OF_A_BROWSER = (b"origin", b"sec-fetch-site")


class LoopbackOnly:
    """Lets through what programs of this machine and pages served from it send; everything once keys are needed."""

    def __init__(self, app: ASGIApp, callers: Callers) -> None:
        self.app = app
        self.callers = callers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        if (refusal := _refusal(headers)) and await self._is_open():
            await refusal_response(refusal, request_id_of(scope))(scope, receive, send)
            return
        if not any(name in _OF_A_BROWSER for name, _ in headers):
            scope["headers"] = [_as_json(name, value) for name, value in headers]
        await self.app(scope, receive, send)

    async def _is_open(self) -> bool:
        """Whether no key is needed, as far as is known: also while Redis is away."""
        try:
            return not await self.callers.need_keys()
        except RedisError:
            return True


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refusal(headers: list[tuple[bytes, bytes]]) -> Refusal | None:
    for name, value in headers:
        if name == b"host" and not _HOST.fullmatch(value):
            return ForeignHost("This service answers to localhost, 127.0.0.1 and [::1] only; use one of them.")
        if name == b"origin" and not _ORIGIN.fullmatch(value):
            return ForeignOrigin("Pages from elsewhere than this machine are not served; call it from a program.")
    return None


def _as_json(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    is_form = name == b"content-type" and value.partition(b";")[0].strip().lower() == _FORM
    return (name, b"application/json") if is_form else (name, value)
