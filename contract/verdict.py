"""Verdicts: what was found in a picture, by which detector, against which threshold, and what follows from it."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import Field

from contract.filter import Action, ConceptRule, Filter, stricter
from contract.strict import Strict

TEXT_CONCEPTS = "clip-concepts"  # the detector of concepts given as text


class Verdict(StrEnum):
    """What became of one picture. Only a passed picture's bytes can be read."""

    PASSED = "passed"
    BLOCKED = "blocked"
    REVIEW = "review"
    ERROR = "error"


class ConceptScore(Strict):
    """One concept on one picture. `margin = score - threshold`, rounded to 3 digits; over 0 the concept is flagged."""

    name: str
    category: str
    detector: str
    detector_version: str
    score: float = Field(description="A cosine of picture and concept, or a probability: the detector's own.")
    threshold: float = Field(description="The effective threshold, after any special-care adjustment and any rule.")
    margin: float
    flagged: bool
    special_care: bool = Field(False, description="A special-care concept lowers the others' thresholds; never flags.")
    own_threshold: float | None = Field(
        None, description="The detector's own threshold, where a rule or a policy has set another."
    )


class Decision(Strict):
    """The verdict on one picture, the strictest action of the concepts found in it, and plain sentences on why."""

    verdict: Verdict
    action: Action | None = Field(None, description="Null when nothing was found, or there is no filter.")
    reasons: tuple[str, ...] = ()


_VERDICTS = {Action.ANNOTATE: Verdict.PASSED, Action.REVIEW: Verdict.REVIEW, Action.BLOCK: Verdict.BLOCKED}


def at_thresholds_of(output: Filter | None, scores: Sequence[ConceptScore]) -> tuple[ConceptScore, ...]:
    """A picture's scores against the thresholds that a filter sets, whatever they were held against before."""
    concepts = {concept.name: concept.threshold for concept in output.concepts} if output else {}
    rules = {rule.name: rule for rule in output.rules} if output else {}
    return tuple(_at_threshold(score, concepts, rules.get(score.name)) for score in scores)


def _at_threshold(score: ConceptScore, concepts: Mapping[str, float], rule: ConceptRule | None) -> ConceptScore:
    own = score.threshold if score.own_threshold is None else score.own_threshold
    threshold = concepts.get(score.name, own) if score.detector == TEXT_CONCEPTS else own
    if rule is not None and rule.threshold is not None:
        threshold = rule.threshold if rule.loosens else min(threshold, rule.threshold)
    if score.special_care or threshold == score.threshold:
        return score
    margin = round(score.score - threshold, 3)
    changes = {"threshold": threshold, "margin": margin, "flagged": margin > 0, "own_threshold": own}
    return score.model_copy(update=changes)


def decide(scores: Sequence[ConceptScore], output: Filter | None, *, is_blurred: bool = False) -> Decision:
    """What the plan's output place makes of a picture's scores. Without a filter, flags are shown and nothing is done.

    Of the concepts found, the strictest action holds. One that only a worker could carry out blocks as long as it has
    not: `blur` passes a picture that is blurred; `regenerate` passes none, but the picture made in its stead may pass.
    The scores are held against the filter's thresholds; see `at_thresholds_of` for them as they then are.

    Raises:
        ValueError: when there is nothing to decide on; a picture without scores is never passed.
    """
    if not scores:
        raise ValueError("a picture without scores cannot be judged")
    held = at_thresholds_of(output, scores)
    flagged = sorted((score for score in held if score.flagged), key=lambda score: -score.margin)
    if output is None or not flagged:
        return Decision(verdict=Verdict.PASSED)
    action = stricter(*(output.action_on(score.name) for score in flagged))
    verdict = _VERDICTS.get(action, Verdict.BLOCKED)
    if action is Action.BLUR and is_blurred:
        verdict = Verdict.PASSED
    return Decision(verdict=verdict, action=action, reasons=tuple(map(reason_of, flagged)))


def reason_of(score: ConceptScore) -> str:
    """Why a picture in which this was found is withheld, in one sentence."""
    return (
        f"{score.category}: the detector {score.detector} scored {score.name!r} at {score.score:.4f}, over its"
        f" threshold of {score.threshold:.4f} (margin {score.margin:+.3f})"
    )
