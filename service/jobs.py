"""Jobs for pictures as told over HTTP: judged once more before any picture is shown."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

from contract.detail import ScoreDetail, as_told, told
from contract.filter import Action
from contract.job import Job
from contract.plan import SafetyPlan
from contract.policy import InForce
from contract.prompt_concepts import NO_PROMPT, PromptDecision
from contract.rejudging import under_floor, under_prompt
from contract.result import ComparedPicture, JobError, JobView, Picture, Reproduction, Result, status_of
from contract.verdict import ConceptScore, Verdict, decide
from service.callers import Caller
from service.kept import KeptRecord, Reading, ReadingFor
from service.policies import Policies

_MARGIN_TOLERANCE = 0.001  # margins are rounded to 3 digits


@dataclass(frozen=True)
class JobRecord(KeptRecord[Job, Result]):
    """A job's record in Redis, parsed."""

    in_force: InForce  # under which it is read: what was passed once may be withheld by now
    is_in_full: bool = False  # scores, whatever the policy says

    @classmethod
    def read(cls, fields: Mapping[str, str] | None, in_force: InForce) -> "JobRecord | None":
        """The record; None where there is none, or one that cannot be read."""
        return cls.parsed(fields, Job, Result, in_force=in_force)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """The pictures' verdicts, each checked for release."""
        return tuple(as_told(picture, self.scores) for picture in self.released)

    @cached_property
    def released(self) -> tuple[Picture, ...]:
        """The same with their scores in full."""
        return tuple(map(self.as_released, self.result.images)) if self.result else ()

    def as_released(self, picture: Picture) -> Picture:
        """One picture of this job's as its caller may see it."""
        return released(picture, self.job.of_picture(picture.index), self.in_force.floor, self.prompt)

    def as_judged_now(self, picture: Picture) -> Picture:
        """One picture of this job's as the policy of now judges it, before any person."""
        return judged_now(picture, self.job.of_picture(picture.index), self.in_force.floor, self.prompt)

    @cached_property
    def prompt(self) -> PromptDecision:
        """What the policy of now makes of the request's texts."""
        return NO_PROMPT if self.result is None else self.in_force.policy.on_prompt(self.job, self.result.texts)

    @property
    def scores(self) -> ScoreDetail:
        """In how much detail scores are told."""
        return ScoreDetail.FULL if self.is_in_full else self.in_force.policy.scores

    def seen_by(self, caller: Caller) -> "JobRecord":
        """The record as a caller sees it."""
        return replace(self, is_in_full=caller.sees_scores)

    @property
    def view(self) -> JobView:
        """The job as told over HTTP."""
        pictures = self.pictures
        withdrawn = self.result is not None and [p.verdict for p in pictures] != [p.verdict for p in self.result.images]
        return JobView(
            id=self.job.id,
            status=status_of(tuple(picture.verdict for picture in pictures)) if withdrawn else self.status,
            created_at=self.job.created_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
            safety=self.result.safety if self.result else None,
            images=pictures,
            prompt_concepts=told(self.prompt.scores, self.scores),
            comparison=self._comparison,
            reproduction=self._reproduction,
            metrics=self.result.metrics if self.result else None,
            error=self.result.error if self.result else None,
        )

    @property
    def _shown(self) -> frozenset[int]:
        """The pictures that may be seen by now; of any other, nothing of its pixels is told."""
        return frozenset(picture.index for picture in self.released if picture.verdict is Verdict.PASSED)

    @property
    def _reproduction(self) -> Reproduction | None:
        reproduction = self.result.reproduction if self.result else None
        if reproduction is None:
            return None
        told = tuple(one if one.index in self._shown else one.untold for one in reproduction.images)
        return reproduction.model_copy(update={"images": told})

    @property
    def _comparison(self) -> tuple[ComparedPicture, ...]:
        compared = self.result.comparison if self.result else ()
        coarsened: dict[str, Any] = {} if self.scores is ScoreDetail.FULL else {"differences": ()}
        return tuple(
            one.model_copy(update=coarsened if {0, one.index} <= self._shown else {**coarsened, "distance": None})
            for one in compared
        )


def released(picture: Picture, job: Job, floor: SafetyPlan, prompt: PromptDecision = NO_PROMPT) -> Picture:
    """A picture as its caller may see it: with an address only when its scores, and its prompt's, bear out that it
    passed, also under the policy of today."""
    withheld = {"url": None, "signed_url": None, "sha256": None}
    if picture.verdict is Verdict.REVIEW:
        return judged_now(picture, job, floor, prompt).model_copy(update=withheld)
    if picture.verdict is not Verdict.PASSED:
        return picture.model_copy(update=withheld)
    if reason := doubt_about(picture, job):
        error = JobError(code="not_released", message=reason)
        return picture.model_copy(update={"verdict": Verdict.ERROR, **withheld, "error": error})
    now = under_floor(picture, job, floor)
    if now.verdict is Verdict.ERROR or not (now.verdict is Verdict.PASSED or is_let_pass(now)):
        return now.model_copy(update=withheld)
    if job.uploads:
        return picture.model_copy(update={**withheld, "sha256": job.uploads[picture.index].sha256})
    now = under_prompt(picture, prompt)
    if now.verdict is Verdict.ERROR or not (now.verdict is Verdict.PASSED or is_let_pass(picture, prompt)):
        return now.model_copy(update=withheld)
    return picture.model_copy(update={"url": f"/jobs/{job.id}/images/{picture.index}", "signed_url": None})


def judged_now(picture: Picture, job: Job, floor: SafetyPlan, prompt: PromptDecision = NO_PROMPT) -> Picture:
    """A picture as the policy of now judges it, before any person; what is withheld is never judged more mildly."""
    now = under_floor(picture, job, floor)
    return under_prompt(now, prompt) if picture.concepts or prompt.action is Action.BLOCK else now


def doubt_about(picture: Picture, job: Job) -> str | None:
    """Why a picture that was passed may not be shown all the same; None when nothing speaks against it."""
    if picture.sha256 is None:
        return "The picture is not on record as stored."
    if not picture.concepts:
        return "The picture has no scores."
    output = job.plan.output
    demanded = {concept.name for concept in output.concepts} if output else set()
    if missing := demanded - {score.name for score in picture.concepts}:
        return f"The picture was not scored for: {', '.join(sorted(missing))}."
    if not all(map(_is_coherent, picture.concepts)):
        return "A score of the picture contradicts itself."
    if is_let_pass(picture):
        return None
    if decide(picture.concepts, output, is_blurred=picture.blurred).verdict is not Verdict.PASSED:
        return "The picture's scores do not pass the job's safety plan."
    return None


def is_let_pass(picture: Picture, prompt: PromptDecision = NO_PROMPT) -> bool:
    """Whether a person has let a picture pass, knowing of every concept that was found in it and in its prompt."""
    decided, found = picture.decided, {*picture.found, *prompt.names}
    return decided is not None and decided.verdict is Verdict.PASSED and found <= {*decided.concepts}


def _is_coherent(score: ConceptScore) -> bool:
    if not all(map(math.isfinite, (score.score, score.threshold, score.margin))):
        return False
    if abs(score.score - score.threshold - score.margin) > _MARGIN_TOLERANCE:
        return False
    return score.flagged == (score.margin > 0) or score.special_care


def readings_under(policies: Policies) -> ReadingFor[JobRecord]:
    """Records are read under the policy that their tenant has now."""

    async def for_tenant(tenant: str) -> Reading[JobRecord]:
        return partial(JobRecord.read, in_force=await policies.in_force(tenant))

    return for_tenant
