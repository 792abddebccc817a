"""What follows from the concepts found in a picture."""

from itertools import product

import pytest

from contract.filter import Action, Filter, FilterConcept
from contract.verdict import ConceptScore, Verdict, decide


def found(name: str, margin: float = 0.1) -> ConceptScore:
    return ConceptScore(
        name=name,
        category="weapon",
        detector="test",
        detector_version="1",
        score=0.2 + margin,
        threshold=0.2,
        margin=margin,
        flagged=margin > 0,
    )


def concept(action: Action) -> FilterConcept:
    return FilterConcept(name=action.value, text=action.value, threshold=0.2, action=action)


EVERY_ACTION = Filter(action=Action.BLOCK, concepts=tuple(map(concept, Action)))


@pytest.mark.parametrize(
    ("action", "verdict", "verdict_if_blurred"),
    [
        (Action.ANNOTATE, Verdict.PASSED, Verdict.PASSED),
        (Action.BLUR, Verdict.BLOCKED, Verdict.PASSED),
        (Action.REGENERATE, Verdict.BLOCKED, Verdict.BLOCKED),
        (Action.REVIEW, Verdict.REVIEW, Verdict.REVIEW),
        (Action.BLOCK, Verdict.BLOCKED, Verdict.BLOCKED),
    ],
)
def test_only_a_blurred_picture_passes_the_action_blur(
    action: Action, verdict: Verdict, verdict_if_blurred: Verdict
) -> None:
    output = Filter(action=action)
    assert (decide([found("x")], output).verdict, decide([found("x")], output).action) == (verdict, action)
    assert decide([found("x")], output, is_blurred=True).verdict is verdict_if_blurred


@pytest.mark.parametrize(("one", "other"), list(product(Action, repeat=2)))
def test_of_two_concepts_found_the_stricter_action_holds(one: Action, other: Action) -> None:
    order = ["annotate", "blur", "regenerate", "review", "block"]
    stricter = max(one, other, key=order.index)
    scores = [found(one.value), found(other.value, margin=0.3)]
    for is_blurred in (False, True):
        decision = decide(scores, EVERY_ACTION, is_blurred=is_blurred)
        assert decision.action is stricter
        assert decision.verdict is decide([found(stricter.value)], EVERY_ACTION, is_blurred=is_blurred).verdict


def test_a_concept_that_is_not_found_does_nothing_whatever_its_action() -> None:
    decision = decide([found(action.value, margin=-0.1) for action in Action], EVERY_ACTION)
    assert (decision.verdict, decision.action, decision.reasons) == (Verdict.PASSED, None, ())
    assert decide([found("x")], None).verdict is Verdict.PASSED


def test_a_picture_without_scores_is_never_decided_on() -> None:
    with pytest.raises(ValueError, match="without scores"):
        decide([], Filter(), is_blurred=True)
