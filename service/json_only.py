"""Routes whose body is JSON by its own account."""

import email.message

from fastapi import Request

from service.problems import UnsupportedMediaType


async def require_json(request: Request) -> None:
    """Refuse a body of another media type, which a web page could send to loopback without asking.

    Where no web page sends, `LoopbackOnly` has already taken curl's own type for JSON.
    """
    declared = email.message.Message()
    declared["content-type"] = request.headers.get("content-type", "")
    if declared.get_content_type() != "application/json":
        raise UnsupportedMediaType("Send the request as JSON, with Content-Type: application/json.")
