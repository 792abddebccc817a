"""Pictures judged again, from the scores that stand on record, as another filter would have judged them.

What was not scored then cannot be judged now: a picture is not passed on scores that are missing.
"""

from pydantic import Field, ValidationError

from contract.filter import Action, Filter, stricter
from contract.job import Job, PolicyRef
from contract.plan import SafetyPlan
from contract.prompt_concepts import PromptDecision
from contract.request import plan_of
from contract.result import JobError, Picture
from contract.strict import Strict
from contract.strictness import shortfalls, strictest
from contract.verdict import Verdict, at_thresholds_of, decide

_MILD_FIRST = (Verdict.PASSED, Verdict.REVIEW, Verdict.BLOCKED)


class ShadowVerdict(Strict):
    """What a policy that is only watched would have made of a picture."""

    index: int
    policy: PolicyRef
    verdict: Verdict | None = Field(None, description="Null: the request would have been refused.")
    action: Action | None = None
    reasons: tuple[str, ...] = ()


def unscored(picture: Picture, made_under: Filter | None, output: Filter | None) -> tuple[str, ...]:
    """The concepts that a filter looks for and that the picture was not scored for."""
    if output is None:
        return ()
    texts = {concept.name: concept.text for concept in made_under.concepts} if made_under else {}
    names = {score.name for score in picture.concepts}
    missing = [concept.name for concept in output.concepts if texts.get(concept.name) != concept.text]
    return tuple(sorted({*missing, *(rule.name for rule in output.rules)} - (names - {*missing})))


def rejudged(picture: Picture, made_under: Filter | None, output: Filter | None) -> Picture:
    """A picture as a filter judges it that may be another than the one it was made under; what has no scores stays.

    `blur` and `regenerate` block here unless they were carried out: nothing is made anew.
    """
    if not picture.concepts:
        return picture
    if missing := unscored(picture, made_under, output):
        told = f"the picture was not scored for what the policy now demands: {', '.join(missing)}"
        return _unknown(picture, told)
    decision = decide(picture.concepts, output, is_blurred=picture.blurred)
    changes = {
        "verdict": decision.verdict,
        "action": decision.action,
        "reasons": decision.reasons,
        "concepts": at_thresholds_of(output, picture.concepts),
    }
    return picture.model_copy(update=changes)


def under_floor(picture: Picture, job: Job, floor: SafetyPlan) -> Picture:
    """A picture as it is judged under a floor that may have been tightened since it was made; an error stays one.

    What is withheld never becomes milder, that is a person's to say; and all that was found in it counts as found.
    """
    if picture.verdict is Verdict.ERROR or not shortfalls(job.plan, floor):
        return picture
    try:
        plan = strictest(plan_of(job.requested), floor)
    except ValidationError:
        return _unknown(picture, "the policy now demands more concepts, beside its own, than one filter takes")
    now = rejudged(picture, job.plan.output, plan.output)
    if picture.verdict is Verdict.PASSED or now.verdict is Verdict.ERROR:
        return now
    is_milder = _MILD_FIRST.index(now.verdict) < _MILD_FIRST.index(picture.verdict)
    first, second = (picture, now) if is_milder else (now, picture)
    scores = zip(first.concepts, second.concepts, strict=True)  # reasons are told by the scores of their concepts
    concepts = tuple(other if other.flagged and not one.flagged else one for one, other in scores)
    return first.model_copy(update={"concepts": concepts})


def under_prompt(picture: Picture, prompt: PromptDecision) -> Picture:
    """A picture's verdict with what its prompt comes to: the stricter of the two. An error stays one."""
    if picture.verdict is Verdict.ERROR:
        return picture
    was_made = bool(picture.concepts)
    if not was_made and prompt.action is not Action.BLOCK:
        return _unknown(picture, "nothing was made of the prompt, so there is nothing to judge")
    if prompt.missing and picture.verdict is Verdict.PASSED:
        return _unknown(
            picture, f"the prompt was not scored for what the policy now demands: {', '.join(prompt.missing)}"
        )
    if prompt.action is None:
        return picture
    verdict = picture.verdict
    if prompt.action is Action.BLOCK:
        verdict = Verdict.BLOCKED
    elif prompt.action is Action.REVIEW and verdict is Verdict.PASSED:
        verdict = Verdict.REVIEW
    reasons = tuple(dict.fromkeys((*picture.reasons, *prompt.reasons))) if was_made else prompt.reasons
    action = stricter(picture.action, prompt.action)
    return picture.model_copy(update={"verdict": verdict, "action": action, "reasons": reasons})


def _unknown(picture: Picture, why: str) -> Picture:
    return picture.model_copy(update={"verdict": Verdict.ERROR, "error": JobError(code="not_released", message=why)})
