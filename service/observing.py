"""What every request gets: an id, a line in the metrics, and a last resort when something breaks."""

import logging
import re
import traceback
import uuid
from time import perf_counter
from typing import cast

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from contract.logs import about
from contract.tracing import OFF, Attributes, Span, Tracing
from service.metrics import Metrics
from service.problem_json import problem_response

log = logging.getLogger(__name__)

_SANE_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_UNTRACED = {"/healthz/live", "/healthz/ready", "/metrics"}  # asked every few seconds, and of no interest
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def request_id_of(scope: Scope) -> str:
    """The id under which this request's answer, problem and log lines go."""
    return cast(str, scope["state"]["request_id"])


class Observing:
    """Outermost of the app's own layers, so that nothing leaves without its id and nothing breaks unanswered."""

    def __init__(self, app: ASGIApp, metrics: Metrics, tracing: Tracing, follow_parents: bool = False) -> None:
        self.app = app
        self.metrics = metrics
        self.tracing = tracing
        self.follow_parents = follow_parents

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        span = self._begin(scope, headers.get(b"traceparent", b""))
        # a fresh dict: the server's own is shared by every request of a connection
        scope["state"] = {**scope.get("state", {}), "request_id": request_id, "span": span, "headers": {}}
        began = perf_counter()
        status = 0

        async def send_observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in scope["state"]["headers"].items():
                    headers.append(name, value)  # beside what the answer itself tells of other quotas
                self._observe(scope, status, perf_counter() - began)
            await send(message)

        try:
            with about(request_id=request_id):
                await self.app(scope, receive, send_observed)
        except Exception as error:  # noqa: BLE001 - the last resort
            # Neither the message nor a value: both may hold a prompt.
            frames = "".join(traceback.format_tb(error.__traceback__))
            with about(request_id=request_id):
                log.error("request %s broke: %s\n%s", request_id, type(error).__name__, frames)
            if not status:
                response = problem_response(
                    500, "internal_error", "Something broke here; the log has it under the request's id.", request_id
                )
                await response(scope, receive, send_observed)
        finally:
            _end(span, scope, status)

    def _begin(self, scope: Scope, parent: bytes) -> Span:
        if scope["path"] in _UNTRACED:
            return OFF
        given = parent.decode("latin-1")
        return self.tracing.begin(_method(scope), given, kind="server", is_trusted=self.follow_parents)

    def _observe(self, scope: Scope, status: int, first_byte_s: float) -> None:
        route, method = _route(scope), _method(scope)
        self.metrics.requests.labels(route, method, str(status)).inc()
        self.metrics.latency.labels(route, method).observe(first_byte_s)


def _route(scope: Scope) -> str:
    """The route's own path, with its parameters unfilled."""
    return str(getattr(scope.get("route"), "path", "unknown"))


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "OTHER"


def _end(span: Span, scope: Scope, status: int) -> None:
    name = f"{_method(scope)} {_route(scope)}"
    attributes: Attributes = {
        "http.request.method": _method(scope),
        "http.route": _route(scope),
        "http.response.status_code": status,
        "seemly.request.id": request_id_of(scope),
    }
    span.end(name=name, attributes=attributes)
