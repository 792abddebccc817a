"""Signed heads: what the last entry of an audit was at some time, said so that it cannot be said otherwise later.

A chain shows every change but one: entries cut off at its end. Whoever keeps a signed head elsewhere, and every export
ends with one, sees that as well, back to that head. The signature is an HMAC-SHA256 under a key derived from the
pepper, which is not in Redis.
"""

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Literal, Self

from pydantic import AwareDatetime

from contract.chain import START
from contract.strict import Strict

PURPOSE = "heads of audits"  # the key is derived from the pepper for it


class Head(Strict):
    """The end of a tenant's audit; sequence 0 is that of an empty one."""

    tenant: str
    sequence: int
    link: str
    at: AwareDatetime


class SignedHead(Strict):
    """A head, and its HMAC-SHA256 in hexadecimal."""

    kind: Literal["head"] = "head"
    head: Head
    hmac_sha256: str

    @classmethod
    def of(cls, tenant: str, last: tuple[int, str] | None, key: bytes) -> Self:
        """Sign a head, as of now."""
        sequence, link = last or (0, START)
        head = Head(tenant=tenant, sequence=sequence, link=link, at=datetime.now(UTC))
        return cls(head=head, hmac_sha256=_signature(head, key))

    def is_signed_with(self, key: bytes) -> bool:
        """Whether it was signed here."""
        return hmac.compare_digest(self.hmac_sha256, _signature(self.head, key))


def _signature(head: Head, key: bytes) -> str:
    said = "\n".join((head.tenant, str(head.sequence), head.link, head.at.isoformat()))
    return hmac.digest(key, said.encode(), hashlib.sha256).hex()
