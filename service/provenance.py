"""What files say of where they came from, read without decoding them, and whether they are on record here."""

import ssl
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from contract.job import Upload
from contract.moderation import bytes_of
from contract.provenance import Manifest, NoLibrary, Origin, Provenance, library, manifest_in
from contract.upload import UnusablePicture, look_at
from service.jobs import JobRecord
from service.kept import KeptJobs
from service.problems import FieldError, InvalidRequest, Refusal


@dataclass(frozen=True)
class Verifier:
    """Reads packets and manifests; `anchors` are the authorities that are trusted, in PEM."""

    jobs: KeptJobs[JobRecord]
    anchors: str | None

    @classmethod
    def of(cls, jobs: KeptJobs[JobRecord], anchors: Path | None) -> "Verifier":
        """One that trusts the authorities in a file.

        Raises:
            OSError, ValueError: it cannot be read, or holds none.
        """
        return cls(jobs, anchors_in(anchors))

    async def verified(self, index: int, encoded: str, tenant: str) -> Provenance:
        """One file.

        Raises:
            InvalidRequest: it is no picture.
        """
        content = await run_in_threadpool(bytes_of, encoded)
        try:
            upload = await run_in_threadpool(look_at, content)
        except UnusablePicture as error:
            raise InvalidRequest(FieldError(field=f"images.{index}", message=str(error))) from None
        packet = Origin.found_in(content)
        can_read, manifest = await run_in_threadpool(self._manifest, content, upload)
        claims = [origin for origin in (packet, manifest.origin if manifest else None) if origin is not None]
        delivered = [await self._was_delivered(origin, upload, tenant) for origin in claims]
        return Provenance(
            index=index,
            sha256=upload.sha256,
            packet=packet,
            manifest=manifest,
            manifest_read=can_read,
            delivered=any(delivered),
        )

    def _manifest(self, content: bytes, upload: Upload) -> tuple[bool, Manifest | None]:
        try:
            library()
        except NoLibrary:
            return False, None
        return True, manifest_in(content, upload.format, self.anchors)

    async def _was_delivered(self, origin: Origin, upload: Upload, tenant: str) -> bool:
        try:
            record = await self.jobs.read(origin.job, tenant)
        except Refusal:
            return False
        return any((one.index, one.sha256) == (origin.picture, upload.sha256) for one in record.pictures)


def anchors_in(file: Path | None) -> str | None:
    """The authorities in a file, as PEM; None without a file.

    Raises:
        OSError, ValueError: it cannot be read, or holds none.
    """
    if file is None:
        return None
    text = file.read_text()
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError:
        raise ValueError(f"{file} holds no certificates in PEM") from None
    return text
