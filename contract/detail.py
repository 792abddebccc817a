"""How exactly scores are told: what tells how near a prompt came to a threshold also tells how to come nearer."""

from enum import StrEnum

from contract.result import Picture
from contract.verdict import ConceptScore

STEP = 0.05


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
        "concepts": _told(picture.concepts, detail),
        "reasons": _reasons(picture.concepts) if picture.reasons else (),
        "discarded": tuple(
            one.model_copy(update={"concepts": _told(one.concepts, detail), "reasons": _reasons(one.concepts)})
            for one in picture.discarded
        ),
        "guidance": None,
        "trajectory": None,
    }
    return picture.model_copy(update=changes)


def _told(scores: tuple[ConceptScore, ...], detail: ScoreDetail) -> tuple[ConceptScore, ...]:
    return tuple(map(_coarse, scores)) if detail is ScoreDetail.COARSE else ()


def _coarse(score: ConceptScore) -> ConceptScore:
    numbers = {"score": score.score, "threshold": score.threshold, "margin": score.margin}
    rounded = {name: round(round(number / STEP) * STEP, 2) for name, number in numbers.items()}
    return score.model_copy(update={**rounded, "own_threshold": None})


def _reasons(scores: tuple[ConceptScore, ...]) -> tuple[str, ...]:
    return tuple(f"{score.category}: {score.name!r} was found by {score.detector}" for score in scores if score.flagged)
