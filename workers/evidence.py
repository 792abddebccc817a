"""What is put on record of a finished job."""

from datetime import UTC, datetime

from contract.audit import Verdicts
from contract.job import Job
from contract.rejudging import ShadowVerdict
from contract.result import Picture, Result

# Where a picture can be had is nobody's business later, and what happened step by step is long and explains no verdict.
_LEFT_OUT = {"url": None, "signed_url": None, "guidance": None, "trajectory": None}


def verdicts_of(job: Job, attempt: int, result: Result, shadow: tuple[ShadowVerdict, ...] = ()) -> Verdicts | None:
    """The entry of the audit with a result's verdicts; None when it has no pictures."""
    if not result.images:
        return None
    safety = tuple(compared.safety for compared in result.comparison) or ((result.safety,) if result.safety else ())
    return Verdicts(
        tenant=job.tenant,
        at=datetime.now(UTC),
        job=job.id,
        attempt=attempt,
        status=result.status,
        prompt=job.prompt_at_rest,
        plans=tuple(compared.plan for compared in job.compared) or (job.plan,),
        safety=safety,
        images=tuple(_on_record(picture, job) for picture in result.images),
        texts=result.texts,
        has_prompt=not job.uploads,
        shadow=shadow,
    )


def _on_record(picture: Picture, job: Job) -> Picture:
    own = {"sha256": job.uploads[picture.index].sha256} if job.uploads else {}  # of what was sent, not of what is kept
    return picture.model_copy(update=_LEFT_OUT | own)
