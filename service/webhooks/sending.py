"""One attempt: a POST to a checked address, of which only the status and `Retry-After` are read."""

import asyncio
import email.utils
import math
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import httpcore

from service.webhooks.connecting import CheckedConnections, Resolve, TargetRefused
from service.webhooks.targets import Network, why_refused


@dataclass(frozen=True)
class Answer:
    """What came of an attempt: the receiver's status, or why there was none."""

    status: int | None = None
    error: str | None = None
    retry_after_s: float = 0

    @property
    def has_arrived(self) -> bool:
        """Whether the receiver has taken the message."""
        return self.status is not None and 200 <= self.status < 300

    @property
    def is_gone(self) -> bool:
        """Whether the receiver wants no more of it."""
        return self.status == 410


class Sender:
    """Sends messages. No redirect is followed, no proxy used, no connection kept, no body read.

    The certificates that are trusted are the system's, or those that SSL_CERT_FILE names.
    """

    def __init__(self, resolve: Resolve, networks: Sequence[Network], timeout_s: float) -> None:
        self._resolve = resolve
        self._networks = networks
        self._timeout_s = timeout_s
        self._tls = ssl.create_default_context()

    async def post(self, target: str, headers: Mapping[str, str], body: str) -> Answer:
        """Try once, for as long as `timeout_s` in all. What goes wrong is told by the answer."""
        if why := why_refused(target, self._networks):
            return Answer(error=f"the address {why}")
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(target, headers, body.encode())
        except (TimeoutError, httpcore.TimeoutException):
            return Answer(error=f"no answer within {self._timeout_s:g} s")
        except TargetRefused as error:
            return Answer(error=f"the address {error}")
        except httpcore.ConnectError as error:
            return Answer(error=_tls_failure(error) or "no connection")
        except (httpcore.NetworkError, httpcore.ProtocolError):
            return Answer(error="the connection broke before an answer")
        except OSError:
            return Answer(error="the name leads to no address")

    async def _post(self, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        backend = CheckedConnections(self._resolve, self._networks, is_plain=target.startswith("http:"))
        async with httpcore.AsyncConnectionPool(ssl_context=self._tls, network_backend=backend) as pool:
            sent = [(name.encode(), value.encode()) for name, value in headers.items()]
            async with pool.stream("POST", target, headers=sent, content=body) as answer:
                status = answer.status
                if 200 <= status < 300:
                    return Answer(status)
                why = "redirects are not followed" if 300 <= status < 400 else f"answered {status}"
                return Answer(status, why, retry_after_s(dict(answer.headers), datetime.now(UTC)))


def retry_after_s(headers: Mapping[bytes, bytes], now: datetime) -> float:
    """Seconds that `Retry-After` asks for, in either of its forms; 0 when it says nothing that can be read."""
    found = {name.lower(): value for name, value in headers.items()}.get(b"retry-after", b"").decode("latin-1").strip()
    if found.isascii() and found.isdigit() and len(found) <= 9:
        return float(found)
    try:
        moment = email.utils.parsedate_to_datetime(found)
    except ValueError:
        return 0
    seconds = (moment.replace(tzinfo=moment.tzinfo or UTC) - now).total_seconds()
    return max(0, seconds) if math.isfinite(seconds) else 0


def _tls_failure(error: BaseException) -> str | None:
    """What TLS had against the receiver, when that is what came between."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate is not valid: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return "TLS failed"
        cause = cause.__cause__ or cause.__context__
    return None
