"""What a person's decision on a withheld picture comes to: the review, the audit's entry and the result it leaves."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from contract import audit as entries
from contract.at_rest import PromptForm
from contract.audit import words_of
from contract.detail import telling_of
from contract.result import Decided, Picture, status_of
from contract.review import Answer, Cause, DecisionRequest, Opinion, Review, ReviewState
from contract.verdict import Verdict
from service.callers import Caller
from service.jobs import JobRecord
from service.problems import AlreadyDecided, AnotherPersonNeeded, FieldError, InvalidRequest

AGAIN = "POST /jobs/{id}/reproduce makes it again, for a person to see"
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
    def is_there(self) -> bool:
        """Whether its bytes lie here: kept for a person, or delivered once and withheld since."""
        return self.picture.kept or (self.picture.sha256 is not None and not self.record.job.uploads)

    @property
    def now(self) -> Picture:
        """The picture as the policy of now has it: what a person is shown, and decides on."""
        picture = self.picture
        return self.record.as_judged_now(picture) if picture.decided is None else self.record.as_released(picture)

    @property
    def opinions(self) -> tuple[Opinion, ...]:
        """What was said so far."""
        return _OPINIONS.validate_json(self.fields["approvals"])

    @property
    def told(self) -> Review:
        """The review as told over HTTP."""
        picture, job, fields = self.now, self.record.job, self.fields
        address = f"/reviews/{fields['id']}"
        return Review(
            id=fields["id"],
            state=ReviewState(fields["state"]),
            cause=Cause(fields["cause"]),
            appeal=fields["reason"] or None,
            created_at=datetime.fromtimestamp(float(fields["created_at"]), UTC),
            job_id=job.id,
            index=picture.index,
            verdict=picture.verdict,
            action=picture.action,
            seed=picture.seed,
            width=picture.width,
            height=picture.height,
            model=job.model,
            policy=job.policy,
            concepts=picture.concepts,
            reasons=(*picture.reasons, *((picture.error.message,) if picture.error else ())),
            opinions=self.opinions,
            reviewers=self.reviewers,
            prompt=job.prompt_at_rest.prompt if job.prompt_at_rest.form is PromptForm.KEPT else None,
            thumbnail_url=f"{address}/thumbnail" if picture.kept else None,
            picture_url=f"{address}/picture" if self.is_there else None,
        )


def decision_of(case: Case, caller: Caller, request: DecisionRequest, version: str, keep_s: int) -> list[Any]:
    """ARGV of `contract.review.DECIDE`.

    Raises:
        AlreadyDecided: someone was first.
        AnotherPersonNeeded: this one has approved it before.
        InvalidRequest: for concepts that the picture was not scored for; for an approval that would release nothing.
    """
    state, opinions, job = ReviewState(case.fields["state"]), case.opinions, case.record.job
    picture = case.now if case.now.verdict is not Verdict.ERROR else case.picture
    if state not in (ReviewState.WAITING, ReviewState.SECOND):
        raise AlreadyDecided(f"This picture was decided on: {state}.")
    labels = _labels(picture, request)
    found = tuple(dict.fromkeys((*picture.found, *case.record.prompt.names)))
    own = Opinion(
        by=caller.person, decision=request.decision, reason=request.reason, at=datetime.now(UTC), concepts=found
    )
    decided = _decided(picture, own)
    if own.decision is Answer.REJECT:
        state = ReviewState.REJECTED
    else:
        _check_released(decided, case.record)
        agreeing = [one for one in opinions if {*found} <= {*one.concepts}]  # of what was found later they know nothing
        if any(earlier.by == own.by for earlier in agreeing):
            raise AnotherPersonNeeded(
                "You have approved this picture; another person must as well, with a key of their own."
            )
        state = ReviewState.APPROVED if len(agreeing) + 1 >= case.reviewers else ReviewState.SECOND
    after = None if state is ReviewState.SECOND else decided
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
    seen = replace(case.record, result=result).released  # the other pictures too are told as they are read now
    telling = telling_of(result.model_copy(update={"images": seen}), case.record.in_force.policy.scores)
    told = status_of(tuple(one.verdict for one in seen))
    return [*arguments, status.value, result.model_dump_json(), keep_s, told.value, telling]


def _check_released(approved: Picture, record: JobRecord) -> None:
    """See that an approval does what it says: what the picture was never scored for nobody can have been shown.

    Raises:
        InvalidRequest: when the picture would be withheld all the same.
    """
    seen = record.as_released(approved)
    if approved.verdict is Verdict.PASSED and seen.verdict is not Verdict.PASSED:
        why = seen.error.message if seen.error else "; ".join(seen.reasons)
        raise InvalidRequest(
            FieldError(field="decision", message=f"would release nothing: {why}; reject it, or: {AGAIN}")
        )


def _decided(picture: Picture, opinion: Opinion) -> Picture:
    """A picture once a person's decision holds, which its verdict and its reasons then say.

    One that was made here and not kept stays blocked: nobody has seen it. An upload is its sender's to release.
    """
    verdict, words = Verdict.BLOCKED, "blocked"
    if opinion.decision is Answer.APPROVE:
        verdict, words = Verdict.PASSED, "passed"
    decided = Decided(verdict=verdict, reason=opinion.reason, at=opinion.at, concepts=opinion.concepts)
    told = f"{words} by a person's decision: {opinion.reason}"
    if verdict is Verdict.PASSED and picture.sha256 is None:
        verdict = Verdict.BLOCKED
        what_now = f"the picture was not kept: {AGAIN}" if picture.concepts else _NOT_MADE
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
    if request.decision is Answer.APPROVE:
        return dict.fromkeys(picture.found, False)
    return {picture.found[0]: True} if len(picture.found) == 1 else {}
