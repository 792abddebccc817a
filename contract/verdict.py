"""Verdicts: what was found in a picture, by which detector, against which threshold, and what follows from it."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field

from contract.plan import Action, Filter
from contract.strict import Strict


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
    threshold: float = Field(description="The effective threshold, after any special-care adjustment.")
    margin: float
    flagged: bool
    special_care: bool = Field(False, description="A special-care concept lowers the others' thresholds; never flags.")


class Decision(Strict):
    """The verdict on one picture, the strictest action of the concepts found in it, and plain sentences on why."""

    verdict: Verdict
    action: Action | None = Field(None, description="Null when nothing was found, or there is no filter.")
    reasons: tuple[str, ...] = ()


_VERDICTS = {Action.ANNOTATE: Verdict.PASSED, Action.REVIEW: Verdict.REVIEW, Action.BLOCK: Verdict.BLOCKED}
_STRICTNESS = {action: rank for rank, action in enumerate(Action)}  # declared from mildest to strictest


def stricter(*actions: Action) -> Action:
    """The strictest of some actions."""
    return max(actions, key=_STRICTNESS.__getitem__)


def decide(scores: Sequence[ConceptScore], output: Filter | None, *, is_blurred: bool = False) -> Decision:
    """What the plan's output place makes of a picture's scores. Without a filter, flags are shown and nothing is done.

    Of the concepts found, the strictest action holds. One that only a worker could carry out blocks as long as it has
    not: `blur` passes a picture that is blurred; `regenerate` passes none, but the picture made in its stead may pass.

    Raises:
        ValueError: when there is nothing to decide on; a picture without scores is never passed.
    """
    if not scores:
        raise ValueError("a picture without scores cannot be judged")
    flagged = sorted((score for score in scores if score.flagged), key=lambda score: -score.margin)
    if output is None or not flagged:
        return Decision(verdict=Verdict.PASSED)
    own_action = {concept.name: concept.action for concept in output.concepts if concept.action is not None}
    action = stricter(*(own_action.get(score.name, output.action) for score in flagged))
    verdict = _VERDICTS.get(action, Verdict.BLOCKED)
    if action is Action.BLUR and is_blurred:
        verdict = Verdict.PASSED
    return Decision(verdict=verdict, action=action, reasons=tuple(map(_reason, flagged)))


def _reason(score: ConceptScore) -> str:
    return (
        f"{score.category}: {score.name!r} scored {score.score:.4f} by {score.detector}, over its threshold"
        f" {score.threshold:.4f} (margin {score.margin:+.3f})"
    )
