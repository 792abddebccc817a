"""From the engine's outcomes to verdicts, and from verdicts to a job's result. Pure; the safety promise is kept here.

A picture's pixels go on only with a complete, finite set of scores and a verdict that passes them, or, apart from
those, with one that wants a person to look.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from contract.filter import Action
from contract.idle import idle_settings
from contract.job import Job
from contract.model import ModelInfo
from contract.policy import InForce
from contract.prompt_concepts import TextScore
from contract.rejudging import ShadowVerdict, rejudged, under_floor, under_prompt
from contract.request import plan_of
from contract.result import AppliedSafety, Discarded, Ended, JobError, Metrics, Picture, Result, Status, status_of
from contract.verdict import ConceptScore, Decision, Verdict, at_thresholds_of, decide
from workers.blur import blurred
from workers.engine.picture import Failure, Outcome, PictureSpec

SomeDecision = TypeVar("SomeDecision", Decision, Picture)


@dataclass(frozen=True)
class Judged:
    """An outcome with its verdict; `pixels` only when the picture passed, and as it is to be delivered."""

    picture: Picture
    outcome: Outcome  # without its pixels
    pixels: NDArray[np.uint8] | None = None  # (height, width, 3), RGB
    withheld: NDArray[np.uint8] | None = None  # the same of a picture that only a person may see
    discarded: "tuple[Judged, ...]" = ()  # made before it in its place

    @property
    def attempts(self) -> "tuple[Judged, ...]":
        """Everything that was made for this picture, itself last."""
        return (*self.discarded, self)


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
    """Why this worker cannot run a job although the gateway let it through; None when it can."""
    if job.model != info.name:
        return JobError(code="invalid_job", message=f"the job is for the model {job.model!r}, not {info.name!r}")
    if unknown := [method for method in job.plan.methods if method not in info.methods]:
        return JobError(code="invalid_job", message=f"this worker does not serve: {', '.join(unknown)}")
    actions = job.plan.output.actions if job.plan.output is not None else frozenset()
    if unserved := sorted(action.value for action in actions - {*info.actions}):
        return JobError(code="invalid_job", message=f"this worker cannot act by: {', '.join(unserved)}")
    if job.uploads:
        return None  # nothing is made that a setting could be idle for
    for field, reason in idle_settings(job.plan, job.guidance_scale, job.steps, job.scheduler, job.negative_prompt):
        return JobError(code="invalid_job", message=f"{field}: {reason}")
    return None


def why_forbidden(job: Job, in_force: InForce) -> JobError | None:
    """Why a job may not run under the policy of now; None when it may."""
    for field, reason in in_force.faults(job):
        return JobError(code="forbidden_by_policy", message=f"{field}: {reason}; send the request again")
    return None


def released(judged: Judged, job: Job, in_force: InForce, texts: Sequence[TextScore] = ()) -> Judged:
    """A judged picture as it may leave under the policy of now: one that does not pass any more, or whose prompt does
    not, loses its pixels, but for a person."""
    now = judged.picture
    if now.verdict in (Verdict.PASSED, Verdict.REVIEW):
        now = _before_a_person(under_floor(now, job, in_force.floor), judged.outcome.spec, job)
    now = under_prompt(now, in_force.policy.on_prompt(job, texts))
    if now.verdict is Verdict.PASSED or now.verdict is judged.picture.verdict:
        return replace(judged, picture=now)
    pixels = judged.withheld if judged.pixels is None else judged.pixels
    shown = _as_shown(judged.outcome.spec, pixels) if now.verdict in _kept(job) else None
    return replace(judged, picture=now, pixels=None, withheld=shown)


def shadow_of(
    pictures: Sequence[Picture], job: Job, watched: InForce | None, texts: Sequence[TextScore] = ()
) -> Iterator[ShadowVerdict]:
    """What the policy in the shadow would have made of a job's pictures; nothing without one."""
    if watched is None:
        return
    crowded = {why for each in job.plans if (why := watched.crowding(plan_of(each.requested)))}
    faults = (("safety.output.concepts", why) for why in crowded), watched.policy.faults(job)
    refusal = "; ".join(f"{field}: {reason}" for field, reason in chain(*faults))
    prompt = watched.policy.on_prompt(job, texts)
    for picture in pictures:
        common = {"index": picture.index, "policy": watched.policy.ref}
        if refusal:
            yield ShadowVerdict(**common, reasons=(refusal,))
            continue
        own = job.of_picture(picture.index)
        now = rejudged(picture, own.plan.output, watched.effective(plan_of(own.requested)).output)
        now = under_prompt(now, prompt)
        reasons = now.reasons if now.error is None else (now.error.message,)
        yield ShadowVerdict(**common, verdict=now.verdict, action=now.action, reasons=reasons)


def judge(outcome: Outcome, job: Job, info: ModelInfo, discarded: tuple[Judged, ...] = ()) -> Judged:
    """The verdict on one picture, made in place of the discarded ones. Its pixels are dropped here unless it passed
    or awaits a person; of one that passes blurred, the blurred ones go on."""
    spec, pixels = outcome.spec, outcome.pixels
    failure = outcome.failure or _what_is_wrong(outcome, job, info)
    kept = replace(outcome, pixels=None, failure=failure)
    common: dict[str, Any] = {
        "index": spec.index,
        "seed": spec.seed,
        "width": spec.width,
        "height": spec.height,
        "guidance": outcome.guidance,
        "trajectory": outcome.trajectory,
        "discarded": tuple(_as_told(one) for one in discarded),
    }
    if spec.views:
        common["sha256"] = job.uploads[spec.index].sha256
    if failure is not None:
        error = JobError(code=failure.code, message=failure.message)
        return Judged(Picture(verdict=Verdict.ERROR, error=error, **common), kept, discarded=discarded)
    decision = _before_a_person(decide(outcome.scores, job.plan.output), spec, job)
    is_blurred = decision.action is Action.BLUR and pixels is not None  # an upload is its owner's to blur
    if is_blurred and pixels is not None:
        pixels = blurred(pixels)
        decision = decide(outcome.scores, job.plan.output, is_blurred=True)
    scores = at_thresholds_of(job.plan.output, outcome.scores)
    picture = Picture(
        verdict=decision.verdict,
        action=decision.action,
        blurred=is_blurred,
        concepts=scores,
        reasons=(*decision.reasons, *_what_was_done(decision, scores, spec, job)),
        **common,
    )
    return Judged(
        picture,
        kept,
        pixels=pixels if decision.verdict is Verdict.PASSED else None,
        withheld=_as_shown(spec, pixels) if decision.verdict in _kept(job) else None,
        discarded=discarded,
    )


def _as_shown(spec: PictureSpec, pixels: NDArray[np.uint8] | None) -> NDArray[np.uint8] | None:
    """What a person sees of a withheld picture: of an upload all that was judged, on every background side by side."""
    return np.hstack(spec.flats) if spec.flats else pixels


def _kept(job: Job) -> tuple[Verdict, ...]:
    """Verdicts under which a withheld picture is kept for a person to look at."""
    return (Verdict.REVIEW, Verdict.BLOCKED) if job.keep_blocked else (Verdict.REVIEW,)


def _before_a_person(decision: SomeDecision, spec: PictureSpec, job: Job) -> SomeDecision:
    """The decision, or, on a picture whose block was overturned unseen, that a person is to see it first."""
    if decision.verdict is Verdict.BLOCKED and job.original is not None and spec.index in job.original.overturned:
        why = f"a person has overturned the block of this picture of job {job.original.job}, and is to see it now"
        return decision.model_copy(update={"verdict": Verdict.REVIEW, "reasons": (*decision.reasons, why)})
    return decision


def _what_was_done(decision: Decision, scores: Sequence[ConceptScore], spec: PictureSpec, job: Job) -> Iterator[str]:
    """What the reasons for a verdict do not tell by themselves."""
    if decision.action is Action.BLUR:
        yield "delivered blurred past recognition; the scores are of the picture before"
    if decision.action is Action.REGENERATE and spec.regeneration >= _most_regenerations(scores, job) > 0:
        yield f"made again {spec.regeneration} times with other seeds, each time with a concept found"


def made_again(judged: Judged, job: Job) -> PictureSpec | None:
    """What to make in this picture's place; None when it stays."""
    spec = judged.outcome.spec
    if spec.views or judged.picture.action is not Action.REGENERATE:
        return None
    return spec.again if spec.regeneration < _most_regenerations(judged.picture.concepts, job) else None


def _most_regenerations(scores: Sequence[ConceptScore], job: Job) -> int:
    """How often at most a picture with these scores, at the plan's thresholds, is made again."""
    found = (score.name for score in scores if score.flagged)
    return job.plan.output.regenerations_on(*found) if job.plan.output is not None else 0


def _as_told(discarded: Judged) -> Discarded:
    picture = discarded.picture
    found = tuple(score for score in picture.concepts if score.flagged)
    return Discarded(seed=picture.seed, concepts=found, reasons=picture.reasons)


def _what_is_wrong(outcome: Outcome, job: Job, info: ModelInfo) -> Failure | None:
    """Why an outcome that claims to be a picture is none."""
    spec, pixels = outcome.spec, outcome.pixels
    if not spec.views and (pixels is None or pixels.dtype != np.uint8 or pixels.shape != (spec.height, spec.width, 3)):
        return Failure("invalid_output", "the engine returned no picture of the size asked for")
    numbers = [number for score in outcome.scores for number in (score.score, score.threshold, score.margin)]
    if not numbers or not all(math.isfinite(number) for number in numbers):
        return Failure("detector_error", "the picture's scores are missing or not finite")
    output = job.plan.output
    asked = {*info.concepts, *(each.name for each in (output.named if output else ()))}
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
    attempts = [attempt.outcome for one in judged for attempt in one.attempts]
    metrics = Metrics(
        queue_s=max(0.0, timing.started_at - timing.created_at),  # the gateway's clock may run ahead of this one
        inference_s=timing.judged_at - timing.started_at,
        total_s=max(0.0, timing.finished_at - timing.created_at),
        steps=job.steps,
        unet_rows=sum(attempt.unet_rows for attempt in attempts),
        images_per_batch_mean=sum(attempt.pictures_per_batch_mean for attempt in attempts) / len(attempts),
    )
    pictures = tuple(one.picture for one in judged)
    status, error = status_of(tuple(picture.verdict for picture in pictures)), None
    if status is Status.FAILED:
        if codes == {"expired"}:
            status = Status.EXPIRED
        error = next(picture.error for picture in pictures if picture.error)
    return Result(status=status, safety=safety, images=pictures, metrics=metrics, error=error)


def failed(code: str, message: str) -> Ended:
    """A job that came to nothing."""
    return Ended(status=Status.FAILED, error=JobError(code=code, message=message))


def expired() -> Ended:
    """A job whose deadline passed before it was begun."""
    error = JobError(code="expired", message="the deadline passed before the job was begun")
    return Ended(status=Status.EXPIRED, error=error)
