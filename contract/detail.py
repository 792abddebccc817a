"""How exactly scores are told: what tells how near a prompt came to a threshold also tells how to come nearer."""

import json
from enum import StrEnum
from typing import Any, TypeVar

from contract.prompt_concepts import without_score
from contract.result import Discarded, Ended, Picture, Result
from contract.verdict import ConceptScore, reason_of

STEP = 0.05
SomeScore = TypeVar("SomeScore", bound=ConceptScore)


class ScoreDetail(StrEnum):
    """What a caller sees of scores."""

    FULL = "full"
    COARSE = "coarse"  # in steps of STEP, and nothing of what happened at single steps
    NONE = "none"  # which concepts were found, and by which detector


def as_told(picture: Picture, detail: ScoreDetail) -> Picture:
    """A picture with its scores in so much detail; verdict, action and flags stay as they are."""
    if detail is ScoreDetail.FULL:
        return picture
    changes = {
        **_scores_told(picture, detail),
        "discarded": tuple(one.model_copy(update=_scores_told(one, detail)) for one in picture.discarded),
        "guidance": None,
        "trajectory": None,
    }
    return picture.model_copy(update=changes)


def _scores_told(scored: Picture | Discarded, detail: ScoreDetail) -> dict[str, Any]:
    """The concepts, and the reasons without scores; what else is among those, as a person's decision, stays."""
    found = {reason_of(one): f"{one.category}: {one.name!r} was found by {one.detector}" for one in scored.concepts}
    return {
        "concepts": told(scored.concepts, detail),
        "reasons": tuple(found.get(reason) or without_score(reason) for reason in scored.reasons),
    }


def told(scores: tuple[SomeScore, ...], detail: ScoreDetail) -> tuple[SomeScore, ...]:
    """Scores in so much detail."""
    if detail is ScoreDetail.FULL:
        return scores
    return tuple(map(_coarse, scores)) if detail is ScoreDetail.COARSE else ()


def _coarse(score: SomeScore) -> SomeScore:
    numbers = {"score": score.score, "threshold": score.threshold, "margin": score.margin}
    rounded = {name: round(round(number / STEP) * STEP, 2) for name, number in numbers.items()}
    return score.model_copy(update={**rounded, "own_threshold": None})


def telling_of(end: Ended, detail: ScoreDetail) -> str:
    """What a webhook is told of how a job ended, as `contract.outbox.TELL` reads it. JSON."""
    pictures = [as_told(picture, detail) for picture in end.images] if isinstance(end, Result) else []
    told = [{"index": one.index, "verdict": one.verdict, "reasons": one.reasons} for one in pictures]
    return json.dumps({"images": told, "error": {"code": end.error.code} if end.error else None})
