"""Jobs whose texts are scored for concepts: done at once, beside whatever is in flight."""

import hashlib
from collections.abc import Iterator

from pydantic import ValidationError
from redis import Redis

from contract import keys
from contract.reading import ReadingJob, ReadingResult, field_of
from contract.result import Ended, Status
from workers.readiness import Detectors
from workers.records import Started
from workers.results import failed
from workers.safety.protocol import DetectorError, ReadText
from workers.taking import why_over
from workers.uploads import UploadGone


def read(started: Started, connection: Redis, detectors: Detectors | None) -> Ended:
    """Score the job's texts, and tell what came of it."""
    try:
        job = ReadingJob.model_validate_json(started.job_json)
    except ValidationError:
        return failed("invalid_job", "the job's record is invalid")
    if (end := why_over(job, started)) is not None:
        return end
    try:
        if detectors is None:
            raise DetectorError("this worker has nothing that scores texts for concepts")
        scores = detectors.read(list(_texts_of(job, connection)), job.concepts)
    except UploadGone as error:
        return failed("upload_gone", str(error))
    except DetectorError as error:
        return failed("detector_error", str(error))
    return ReadingResult(status=Status.SUCCEEDED, texts=scores)


def _texts_of(job: ReadingJob, connection: Redis) -> Iterator[ReadText]:
    for index, sha256 in enumerate(job.texts):
        content = connection.get(keys.upload_key(job.id, index))
        if not isinstance(content, bytes) or hashlib.sha256(content).hexdigest() != sha256:
            raise UploadGone(f"text {index} is no longer kept: its sender has stopped waiting")
        yield ReadText(field_of(index), content.decode())
