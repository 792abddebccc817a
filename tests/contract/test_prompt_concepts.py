"""What a policy makes of a prompt's scores, and a picture of what its prompt comes to."""

import pytest
from pydantic import ValidationError

from contract.filter import Action
from contract.prompt_concepts import NO_PROMPT, TextScore, judged_prompt, without_score
from contract.prompt_rules import PromptConcept, PromptRules
from contract.rejudging import under_prompt
from contract.verdict import Verdict
from tests.service import parts

MADE = parts.picture(parts.some_job(), 0)


def text(score: float, concept: str = "a knife", field: str = "prompt") -> TextScore:
    return TextScore(field=field, concept=concept, score=score, detector_version="1", detector_sha256="0" * 64)


def rules(*actions: Action, threshold: float = 0.4) -> PromptRules:
    names = ("knife", "gun", "hat")
    return PromptRules(
        concepts=tuple(
            PromptConcept.model_validate({"name": name, "text": f"a {name}", "threshold": threshold, "action": action})
            for name, action in zip(names, actions, strict=False)
        )
    )


def test_a_text_that_was_not_scored_for_everything_has_not_passed() -> None:
    for action, verdict in (
        *((Action.BLOCK, Verdict.BLOCKED), (Action.REVIEW, Verdict.ERROR)),
        (Action.ANNOTATE, Verdict.ERROR),
    ):
        decision = judged_prompt([text(0.5)], rules(action, Action.ANNOTATE))
        assert (decision.missing, decision.verdict) == (("gun",), verdict)
    assert judged_prompt((), PromptRules()).verdict is Verdict.PASSED


def test_every_text_is_held_against_the_policys_own_thresholds() -> None:
    texts = [text(0.5), text(0.41, field="negative_prompt"), text(0.4, "a gun")]
    decision = judged_prompt(texts, rules(Action.ANNOTATE, Action.BLOCK))
    assert [(s.name, s.field, s.margin, s.flagged) for s in decision.scores] == [
        ("knife", "prompt", 0.1, True),
        ("knife", "negative_prompt", 0.01, True),
        ("gun", "prompt", 0.0, False),
    ]
    assert (decision.action, decision.missing, len(decision.reasons)) == (Action.ANNOTATE, (), 2)
    assert decision.reasons[0] == (
        "prompt: the detector prompt-concepts scored 'knife' at 0.5000, over its threshold of 0.4000 (margin +0.100)"
    )
    assert without_score(decision.reasons[0]) == "prompt: 'knife' was found by prompt-concepts"
    assert without_score("passed by a person's decision: art") == "passed by a person's decision: art"
    assert judged_prompt(texts, rules(Action.ANNOTATE, Action.BLOCK, threshold=0.3)).action is Action.BLOCK
    assert judged_prompt(texts, rules(Action.BLOCK, Action.BLOCK, Action.REVIEW)).missing == ("hat",)
    assert judged_prompt(texts, PromptRules()) == NO_PROMPT


@pytest.mark.parametrize(
    ("action", "verdict", "expected"),
    [
        (Action.ANNOTATE, Verdict.PASSED, Verdict.PASSED),
        (Action.REVIEW, Verdict.PASSED, Verdict.REVIEW),
        (Action.BLOCK, Verdict.PASSED, Verdict.BLOCKED),
        (Action.REVIEW, Verdict.BLOCKED, Verdict.BLOCKED),
        (Action.BLOCK, Verdict.REVIEW, Verdict.BLOCKED),
        (Action.BLOCK, Verdict.ERROR, Verdict.ERROR),
    ],
)
def test_the_stricter_of_picture_and_prompt_holds(action: Action, verdict: Verdict, expected: Verdict) -> None:
    picture = MADE.model_copy(update={"verdict": verdict, "reasons": ("its own",)})
    now = under_prompt(picture, judged_prompt([text(0.5)], rules(action)))
    assert now.verdict is expected
    assert len(now.reasons) == (1 if verdict is Verdict.ERROR else 2)
    assert under_prompt(picture, judged_prompt([text(0.3)], rules(action))) == picture


def test_what_is_not_known_passes_nothing() -> None:
    unscored = under_prompt(MADE, judged_prompt([], rules(Action.ANNOTATE)))
    assert (unscored.verdict, unscored.error and unscored.error.code) == (Verdict.ERROR, "not_released")
    never_made = MADE.model_copy(update={"verdict": Verdict.BLOCKED, "concepts": ()})
    assert under_prompt(never_made, NO_PROMPT).verdict is Verdict.ERROR
    assert under_prompt(never_made, judged_prompt([text(0.5)], rules(Action.BLOCK))).verdict is Verdict.BLOCKED


def test_concepts_have_names_of_their_own_and_actions_that_a_prompt_can_have() -> None:
    one = {"name": "knife", "text": "a knife", "threshold": 0.4}
    with pytest.raises(ValidationError, match="repeated: knife"):
        PromptRules.model_validate({"concepts": [one, one]})
    with pytest.raises(ValidationError, match="annotate"):
        PromptRules.model_validate({"concepts": [{**one, "action": "blur"}]})
