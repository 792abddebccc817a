"""The address of a webhook, as apps give it with a request. Where it may lead is the deployment's to say."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import Url

MAX_URL = 2048


def _normal_form(text: str) -> str:
    """The address as WHATWG's rules read it, so that every later reader reads the same.

    What they would pass over or mend, and another reader might not, is refused: blanks, backslashes, missing slashes.
    """
    if not text.startswith(("https://", "http://")):
        raise ValueError("must begin with https://")
    if not text.isascii() or not text.isprintable() or any(sign in text for sign in ' \\"<>^`{|}'):
        raise ValueError("must be plain ASCII without blanks; write other signs as %XX, and names in their xn-- form")
    if "#" in text:
        raise ValueError("must have no fragment (#…): it would not be sent")
    authority = text.partition("://")[2].partition("/")[0].partition("?")[0]
    if "@" in authority:
        raise ValueError("must hold no user name or password; messages are signed instead")
    try:
        url = Url(text)
    except ValueError:
        raise ValueError("is no valid address") from None
    host = url.host or ""
    if not authority or authority.startswith(":") or "%" in authority or "" in host.split("."):
        raise ValueError("must name a host")
    if not url.port:
        raise ValueError("must not name port 0")
    return str(url)


WebhookUrl = Annotated[
    str,
    Field(max_length=MAX_URL, examples=["https://app.example/seemly"], json_schema_extra={"format": "uri"}),
    AfterValidator(_normal_form),
]
