"""Uploads on their way to the detectors: read from Redis, decoded once more within the same bounds."""

import hashlib
from dataclasses import dataclass

from redis import Redis

from contract import keys
from contract.job import Job
from contract.upload import Pixels, UnusablePicture, views_of


class UploadGone(LookupError):
    """A picture that was to be judged is no longer kept, or is not the one that was sent."""


@dataclass(frozen=True)
class Uploads:
    """Pictures of moderations."""

    connection: Redis

    def views_of(self, job: Job) -> list[tuple[Pixels, ...]]:
        """Every upload of a job, as it is to be looked at.

        Raises:
            UploadGone
        """
        views = []
        for index, upload in enumerate(job.uploads):
            content = self.connection.get(keys.upload_key(job.id, index))
            if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != upload.sha256:
                raise UploadGone(f"picture {index} is no longer kept: its sender has stopped waiting")
            try:
                views.append(views_of(content))
            except UnusablePicture as error:  # the gateway decoded it as well
                raise UploadGone(f"picture {index} {error}") from error
        return views
