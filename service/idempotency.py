"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): one job for a request, however often it arrives.

A key stands for its tenant, its route and its body, from acceptance on for `idempotency_ttl_s`. Sent again, it is
answered as the first time: 202, the job as accepted, its address; with `Prefer: wait`, with that same job's end. With
another body it is refused with 422. As acceptance is one step, there is no moment in which a repetition could meet the
first request half done: the draft's 409 does not occur. A refused request leaves nothing behind, and neither does a
moderation that came to no verdicts.
"""

import hashlib
import re
from typing import Annotated

from fastapi import Depends, Header

from contract.strict import Strict
from service.problems import BadRequest

# The draft wants a quoted string, most clients send it bare.
_KEY = re.compile(r'"([ !#-\[\]-~]{1,255})"|([!#-\[\]-~]{1,255})')


async def idempotency_key(
    idempotency_key: Annotated[
        str | None,
        Header(description="1 to 255 printable characters, best a UUID: the request makes one job, also sent again."),
    ] = None,
) -> str | None:
    """The digest of the key that came with the request."""
    if idempotency_key is None:
        return None
    found = _KEY.fullmatch(idempotency_key.strip())
    if found is None:
        raise BadRequest('Idempotency-Key takes 1 to 255 printable ASCII characters other than " and \\.')
    return hashlib.sha256((found[1] or found[2]).encode()).hexdigest()


IdempotencyKey = Annotated[str | None, Depends(idempotency_key)]


def fingerprint_of(request: Strict) -> str:
    """What makes two requests the same: the route, which its type tells, and every field as it was understood."""
    return hashlib.sha256(f"{type(request).__name__} {request.model_dump_json()}".encode()).hexdigest()
