"""From the engine's outcomes to verdicts, and from verdicts to a job's result. Pure; the safety promise is kept here.

A picture's pixels go on only with a complete, finite set of scores and a verdict that passes them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.idle import idle_settings
from contract.job import Job
from contract.model import ModelInfo
from contract.plan import Action
from contract.result import AppliedSafety, JobError, Metrics, Picture, Result, Status, status_of
from contract.verdict import Verdict, decide
from workers.engine.picture import Failure, Outcome

# What `contract.verdict.decide` carries out. The others would let a picture pass as it is.
DECIDABLE_ACTIONS = frozenset({Action.ANNOTATE, Action.REVIEW, Action.BLOCK})


@dataclass(frozen=True)
class Judged:
    """An outcome with its verdict; `pixels` only when the picture passed."""

    picture: Picture
    outcome: Outcome  # without its pixels
    pixels: NDArray[np.uint8] | None = None  # (height, width, 3), RGB


@dataclass(frozen=True)
class Timing:
    """A job's times, epoch seconds. Created on the gateway's clock, the rest on this worker's.

    Inference lasts from the start to the last picture's verdict, waiting for room in the engine included.
    """

    created_at: float
    started_at: float
    judged_at: float
    finished_at: float


def why_refused(job: Job, info: ModelInfo) -> JobError | None:
    """Why this worker must not run a job although the gateway let it through; None when it may."""
    if job.model != info.name:
        return JobError(code="invalid_job", message=f"the job is for the model {job.model!r}, not {info.name!r}")
    if unknown := [method for method in job.plan.methods if method not in info.methods]:
        return JobError(code="invalid_job", message=f"this worker does not serve: {', '.join(unknown)}")
    if job.plan.output is not None:
        actions = {job.plan.output.action, *(concept.action for concept in job.plan.output.concepts)} - {None}
        if unserved := sorted(str(action) for action in actions if action not in DECIDABLE_ACTIONS & {*info.actions}):
            return JobError(code="invalid_job", message=f"this worker cannot act by: {', '.join(unserved)}")
    for field, reason in idle_settings(job.plan, job.guidance_scale, job.steps, job.scheduler, job.negative_prompt):
        return JobError(code="invalid_job", message=f"{field}: {reason}")
    return None


def judge(outcome: Outcome, job: Job, info: ModelInfo) -> Judged:
    """The verdict on one picture. Its pixels are dropped here unless it passed."""
    spec, pixels = outcome.spec, outcome.pixels
    failure = outcome.failure or _what_is_wrong(outcome, job, info)
    kept = Outcome(
        spec,
        scores=outcome.scores,
        failure=failure,
        applied=outcome.applied,
        guidance=outcome.guidance,
        trajectory=outcome.trajectory,
        inference_s=outcome.inference_s,
        unet_rows=outcome.unet_rows,
        pictures_per_batch_mean=outcome.pictures_per_batch_mean,
    )
    common = {
        "index": spec.index,
        "seed": spec.seed,
        "width": spec.width,
        "height": spec.height,
        "guidance": outcome.guidance,
        "trajectory": outcome.trajectory,
    }
    if failure is not None or pixels is None:
        error = JobError(code=failure.code, message=failure.message) if failure else None
        return Judged(Picture(verdict=Verdict.ERROR, error=error, **common), kept)
    decision = decide(outcome.scores, job.plan.output)
    picture = Picture(verdict=decision.verdict, concepts=outcome.scores, reasons=decision.reasons, **common)
    return Judged(picture, kept, pixels if decision.verdict is Verdict.PASSED else None)


def _what_is_wrong(outcome: Outcome, job: Job, info: ModelInfo) -> Failure | None:
    """Why an outcome that claims to be a picture is none."""
    spec, pixels = outcome.spec, outcome.pixels
    if pixels is None or pixels.dtype != np.uint8 or pixels.shape != (spec.height, spec.width, 3):
        return Failure("invalid_output", "the engine returned no picture of the size asked for")
    numbers = [number for score in outcome.scores for number in (score.score, score.threshold, score.margin)]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        return Failure("detector_error", "the picture's scores are missing or not finite")
    asked = {*info.concepts, *(concept.name for concept in (job.plan.output.concepts if job.plan.output else ()))}
    if unscored := sorted(asked - {score.name for score in outcome.scores}):
        return Failure("detector_error", f"the picture was not scored for: {', '.join(unscored)}")
    return None


def result_of(job: Job, judged: Sequence[Judged], timing: Timing, info: ModelInfo) -> Result:
    """A job's result from all its judged pictures, in order."""
    codes = {one.outcome.failure.code if one.outcome.failure else None for one in judged}
    if "canceled" in codes:  # asked for by the client: what was finished before it is withheld as well
        return Result(status=Status.CANCELED)
    applied = [one.outcome.applied for one in sorted(judged, key=lambda one: one.outcome.failure is not None)]
    safety = AppliedSafety(
        requested=job.requested,
        applied=next(filter(None, applied), {}),  # what held for a whole picture before what held for a failed one
        policy=job.policy,
        weights_sha256=info.weights_sha256,
        model=job.model,
    )
    metrics = Metrics(
        queue_s=max(0.0, timing.started_at - timing.created_at),  # the gateway's clock may run ahead of this one
        inference_s=timing.judged_at - timing.started_at,
        total_s=max(0.0, timing.finished_at - timing.created_at),
        steps=job.steps,
        unet_rows=sum(one.outcome.unet_rows for one in judged),
        images_per_batch_mean=sum(one.outcome.pictures_per_batch_mean for one in judged) / len(judged),
    )
    pictures = tuple(one.picture for one in judged)
    status, error = status_of(tuple(picture.verdict for picture in pictures)), None
    if status is Status.FAILED:
        if codes == {"expired"}:
            status = Status.EXPIRED
        error = next(picture.error for picture in pictures if picture.error)
    return Result(status=status, safety=safety, images=pictures, metrics=metrics, error=error)


def failed(code: str, message: str) -> Result:
    """A job that came to nothing."""
    return Result(status=Status.FAILED, error=JobError(code=code, message=message))


def expired() -> Result:
    """A job whose deadline passed before it was begun."""
    error = JobError(code="expired", message="the deadline passed before the job was begun")
    return Result(status=Status.EXPIRED, error=error)
