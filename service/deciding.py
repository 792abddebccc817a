"""What a person's decision on a withheld picture comes to: the review, the audit's entry and the result it leaves."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from contract import audit as entries
from contract.at_rest import PromptForm
from contract.audit import words_of
from contract.detail import telling_of
from contract.job import Job
from contract.result import Decided, Picture, status_of
from contract.review import Answer, Cause, DecisionRequest, Opinion, Review, ReviewState
from contract.verdict import Verdict
from service.callers import Caller
from service.jobs import JobRecord
from service.problems import AlreadyDecided, AnotherPersonNeeded, FieldError, InvalidRequest

_AGAIN = "POST /jobs/{id}/reproduce makes it again, for a person to see"
_NOT_MADE = "nothing was made of the prompt, which the policy's rules refuse as long as they stand"
_OPINIONS = TypeAdapter(tuple[Opinion, ...])


@dataclass(frozen=True)
class Case:
    """A review as it stands in Redis, with the job that it is about."""

    fields: dict[str, str]
    record: JobRecord
    reviewers: int

    @property
    def picture(self) -> Picture:
        """The picture as it is on record, not as its tenant may see it."""
        index, images = int(self.fields["index"]), self.record.result.images if self.record.result else ()
        return next(picture for picture in images if picture.index == index)

    @property
    def opinions(self) -> tuple[Opinion, ...]:
        """What was said so far."""
        return _OPINIONS.validate_json(self.fields["approvals"])

    @property
    def told(self) -> Review:
        """The review as told over HTTP."""
        picture, job, fields = self.picture, self.record.job, self.fields
        address = f"/reviews/{fields['id']}" if picture.kept else None
        return Review(
            id=fields["id"],
            state=ReviewState(fields["state"]),
            cause=Cause(fields["cause"]),
            appeal=fields["reason"] or None,
            created_at=datetime.fromtimestamp(float(fields["created_at"]), UTC),
            job_id=job.id,
            index=picture.index,
            verdict=picture.verdict,
            seed=picture.seed,
            width=picture.width,
            height=picture.height,
            model=job.model,
            policy=job.policy,
            concepts=picture.concepts,
            reasons=picture.reasons,
            opinions=self.opinions,
            reviewers=self.reviewers,
            prompt=job.prompt_at_rest.prompt if job.prompt_at_rest.form is PromptForm.KEPT else None,
            thumbnail_url=address and f"{address}/thumbnail",
            picture_url=address and f"{address}/picture",
        )


def decision_of(case: Case, caller: Caller, request: DecisionRequest, version: str, keep_s: int) -> list[Any]:
    """ARGV of `contract.review.DECIDE`.

    Raises:
        AlreadyDecided: someone was first.
        AnotherPersonNeeded: this one has approved it before.
        InvalidRequest: for concepts that the picture was not scored for.
    """
    state, opinions, picture, job = ReviewState(case.fields["state"]), case.opinions, case.picture, case.record.job
    if state not in (ReviewState.WAITING, ReviewState.SECOND):
        raise AlreadyDecided(f"This picture was decided on: {state}.")
    labels = _labels(picture, request)
    own = Opinion(by=caller.person, decision=request.decision, reason=request.reason, at=datetime.now(UTC))
    if own.decision is Answer.REJECT:
        state = ReviewState.REJECTED
    elif any(earlier.by == own.by for earlier in opinions):
        raise AnotherPersonNeeded
    else:
        state = ReviewState.APPROVED if len(opinions) + 1 >= case.reviewers else ReviewState.SECOND
    verdict = {ReviewState.APPROVED: Verdict.PASSED, ReviewState.REJECTED: Verdict.BLOCKED}.get(state)
    of_prompt = tuple(score.name for score in case.record.prompt.found)
    after = None if verdict is None else _decided(picture, job, verdict, own, of_prompt)
    entry = entries.Decision(
        tenant=job.tenant,
        at=own.at,
        job=job.id,
        index=picture.index,
        by=own.by,
        decision=own.decision.value,
        reason=own.reason,
        verdict=None if after is None else after.verdict,
        kept=picture.kept,
        labels=labels,
        concepts=picture.concepts,
        model=job.model,
        policy=job.policy,
    )
    arguments: list[Any] = [
        *(case.fields["version"], version, state.value),
        *(_OPINIONS.dump_json((*opinions, own)).decode(), repr(own.at.timestamp()), *words_of(entry)),
    ]
    if after is None or case.record.result is None:
        return arguments
    images = tuple(after if one.index == after.index else one for one in case.record.result.images)
    status = status_of(tuple(one.verdict for one in images))
    result = case.record.result.model_copy(update={"images": images, "status": status})
    telling = telling_of(result, case.record.in_force.policy.scores)
    return [*arguments, status.value, result.model_dump_json(), keep_s, telling]


def _decided(picture: Picture, job: Job, verdict: Verdict, opinion: Opinion, of_prompt: tuple[str, ...]) -> Picture:
    """A picture once a person's decision holds, which its verdict and its reasons then say. `of_prompt` names the
    concepts that were found in its prompt.

    One that was made here and not kept stays blocked: nobody has seen it. An upload is its sender's to release.
    """
    found = tuple(dict.fromkeys((*(score.name for score in picture.concepts if score.flagged), *of_prompt)))
    decided = Decided(verdict=verdict, reason=opinion.reason, at=opinion.at, concepts=found)
    words = "passed" if verdict is Verdict.PASSED else "blocked"
    told = f"{words} by a person's decision: {opinion.reason}"
    if verdict is Verdict.PASSED and not (picture.kept or job.uploads):
        verdict = Verdict.BLOCKED
        what_now = f"the picture was not kept: {_AGAIN}" if picture.concepts else _NOT_MADE
        told = f"the block was overturned by a person's decision: {opinion.reason}; {what_now}"
    return picture.model_copy(update={"verdict": verdict, "decided": decided, "reasons": (*picture.reasons, told)})


def _labels(picture: Picture, request: DecisionRequest) -> dict[str, bool]:
    scored = {score.name for score in picture.concepts}
    if request.concepts is not None:
        if unknown := sorted({*request.concepts} - scored):
            message = f"the picture was not scored for: {', '.join(unknown)}; scored: {', '.join(sorted(scored))}"
            raise InvalidRequest(FieldError(field="concepts", message=message))
        return dict(request.concepts)
    if not picture.kept:
        return {}
    found = [score.name for score in picture.concepts if score.flagged]
    if request.decision is Answer.APPROVE:
        return dict.fromkeys(found, False)
    return {found[0]: True} if len(found) == 1 else {}
