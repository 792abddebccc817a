"""Addresses of passed pictures that need no key: signed here, checked here, good until they expire.

    <base>/jobs/<job>/images/<index>?expires=<epoch seconds>&signature=<43 characters>

The signature is an HMAC-SHA256 over tenant, job, picture and expiry, under a key derived from the pepper; a new pepper
ends every link. A link leads through the same gate as a key does: what was withheld or taken back since is not shown.
"""

import base64
import hashlib
import hmac
import time
from typing import Final

from contract.result import JobView, Picture
from service.callers import Callers
from service.jobs import JobRecord
from service.kept import KeptJobs
from service.problems import InvalidLink, LinkExpired

LONGEST_S: Final = 7 * 86_400
LATEST: Final = 2**40  # epoch seconds: no later expiry is read


class Links:
    """Signs and checks. `public_url` is where users reach the gateway, when that is not where requests arrive."""

    def __init__(self, callers: Callers, jobs: KeptJobs[JobRecord], public_url: str | None) -> None:
        self._callers = callers
        self._jobs = jobs
        self._public_url = public_url

    async def signed(self, view: JobView, tenant: str, base_url: str, for_s: int) -> JobView:
        """The tenant's job with a `signed_url` at every passed picture, good for so many seconds from now.

        Raises:
            NotReady: when links cannot be signed here.
        """
        secret = await self._secret()
        base, expires = (self._public_url or base_url).rstrip("/"), int(time.time()) + for_s

        def with_link(picture: Picture) -> Picture:
            if picture.url is None:
                return picture
            signature = _signature(secret, tenant, view.id, picture.index, expires)
            link = f"{base}{picture.url}?expires={expires}&signature={signature}"
            return picture.model_copy(update={"signed_url": link})

        return view.model_copy(update={"images": tuple(map(with_link, view.images))})

    async def tenant_of(self, job_id: str, index: int, expires: int | None, signature: str) -> str:
        """Whose picture it is, when the link to it is good.

        Raises:
            InvalidLink: it was not signed here, or nothing is kept of the job.
            LinkExpired: it was, and its time is over.
        """
        tenant, secret = await self._jobs.tenant_of(job_id), await self._secret()
        expected = _signature(secret, tenant or "", job_id, index, expires or 0)
        if tenant is None or not hmac.compare_digest(expected.encode(), signature.encode(errors="replace")):
            raise InvalidLink("This link is not valid, or nothing is kept any longer of the job that it leads to.")
        if expires is None or expires <= time.time():
            raise LinkExpired("This link has expired; ask for the job again, with `links_for_s`, for a new one.")
        return tenant

    async def _secret(self) -> bytes:
        return (await self._callers.pepper_or_new()).derived("links to pictures")


def _signature(secret: bytes, tenant: str, job_id: str, index: int, expires: int) -> str:
    said = "\n".join((tenant, job_id, str(index), str(expires)))
    return base64.urlsafe_b64encode(hmac.digest(secret, said.encode(), hashlib.sha256)).decode().rstrip("=")
