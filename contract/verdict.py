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
    score: float = Field(description="Cosine of picture and concept.")
    threshold: float = Field(description="The effective threshold, after any special-care adjustment.")
    margin: float
    flagged: bool
    special_care: bool = Field(False, description="A special-care concept lowers the others' thresholds; never flags.")


class Decision(Strict):
    """The verdict on one picture and the plain sentences behind it."""

    verdict: Verdict
    reasons: tuple[str, ...] = ()


def decide(scores: Sequence[ConceptScore], output: Filter | None) -> Decision:
    """What the plan's output place makes of a picture's scores. Without a filter, flags are shown and nothing is done.

    An action that only a worker could carry out (blur, regenerate) and has not, blocks.

    Raises:
        ValueError: when there is nothing to decide on; a picture without scores is never passed.
    """
    if not scores:
        raise ValueError("a picture without scores cannot be judged")
    if output is None:
        return Decision(verdict=Verdict.PASSED)
    own_action = {concept.name: concept.action for concept in output.concepts if concept.action is not None}
    flagged = [score for score in scores if score.flagged]
    actions = {own_action.get(score.name, output.action) for score in flagged}
    reasons = tuple(
        f"{score.category}: {score.name!r} scored {score.score:.4f} by {score.detector}, over its threshold"
        f" {score.threshold:.4f} (margin {score.margin:+.3f})"
        for score in sorted(flagged, key=lambda score: -score.margin)
    )
    if actions <= {Action.ANNOTATE}:
        return Decision(verdict=Verdict.PASSED, reasons=reasons)
    if actions <= {Action.ANNOTATE, Action.REVIEW}:
        return Decision(verdict=Verdict.REVIEW, reasons=reasons)
    return Decision(verdict=Verdict.BLOCKED, reasons=reasons)
