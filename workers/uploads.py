"""Uploads on their way to the detectors: read from Redis, decoded once more within the same bounds."""

import hashlib
from dataclasses import dataclass

from redis import Redis

from contract import keys
from contract.job import Job
from contract.upload import Decoded, UnusablePicture, decoded


class UploadGone(LookupError):
    """A picture that was to be judged is no longer kept, or is not the one that was sent."""


@dataclass(frozen=True)
class Uploads:
    """Pictures of moderations."""

    connection: Redis

    def of(self, job: Job) -> list[Decoded]:
        """Every upload of a job, in order.

        Raises:
            UploadGone
        """
        uploads = []
        for index, upload in enumerate(job.uploads):
            content = self.connection.get(keys.upload_key(job.id, index))
            if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != upload.sha256:
                raise UploadGone(f"picture {index} is no longer kept: its sender has stopped waiting")
            try:
                uploads.append(decoded(content))
            except UnusablePicture as error:  # the gateway decoded it as well
                raise UploadGone(f"picture {index} {error}") from error
        return uploads
