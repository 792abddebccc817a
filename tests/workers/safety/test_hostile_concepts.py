"""What methods make of many concepts, of none, and of what is not a number."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from contract.filter import Action, Filter, FilterConcept
from contract.plan import SafetyPlan
from contract.steering import SegaConcept
from contract.verdict import decide
from tests import engines
from workers.models import LoadedModel
from workers.readable import UnreadableText
from workers.safety.protocol import Conditioning, PromptTokens
from workers.safety.safree import SteeredPrompt
from workers.safety.sega import SemanticGuidance

MANY = [f"c{number}" for number in range(64)]
MARK = "<|endoftext|>"


def made(model: LoadedModel, plan: dict[str, Any], **changes: object) -> Any:
    [outcome] = engines.run(engines.engine(model), [engines.spec(plan=SafetyPlan.model_validate(plan), **changes)])
    return outcome


@pytest.mark.parametrize(
    "plan",
    [
        {"guidance": {"method": "sega", "concepts": [{"text": text, "warmup_steps": 0} for text in MANY]}},
        {"trajectory": {"concepts": MANY, "threshold": -1.0}},
        {"trajectory": {"concepts": MANY, "threshold": -1.0, "top_k": 64}},
        {"output": {"concepts": [{"name": text, "text": text, "threshold": 1.0} for text in MANY]}},
        {"prompt": {"concepts": MANY[:20]}},
    ],
    ids=["sega", "unguidance", "unguidance of all", "filter", "safree"],
)
def test_many_concepts_all_act_and_are_all_told(tiny_model: LoadedModel, plan: dict[str, Any]) -> None:
    outcome = made(tiny_model, plan)
    assert outcome.failure is None
    [place] = plan
    told = [one if isinstance(one, str) else one["text"] for one in outcome.applied[place]["concepts"]]
    assert told == MANY[: len(told)]
    assert len(told) == (20 if place == "prompt" else 64)
    if place == "trajectory":
        assert outcome.trajectory.corrected_steps == tuple(range(outcome.spec.steps))
        assert set(outcome.trajectory.scores) == set(MANY)
    if place == "output":
        assert {*MANY} <= {score.name for score in outcome.scores}


@pytest.mark.parametrize("method", ["negative", "sld"])
def test_concepts_that_do_not_fit_into_one_text_fail_the_picture_and_are_not_cut(
    tiny_model: LoadedModel, method: str
) -> None:
    outcome = made(tiny_model, {"guidance": {"method": method, "concepts": MANY}}, steps=12)
    assert outcome.pixels is None
    assert "tokens; this model reads 77" in outcome.failure.message


def test_concepts_that_span_the_whole_space_are_refused(tiny_model: LoadedModel) -> None:
    """Steered off all there is, a prompt would say nothing at all."""
    outcome = made(tiny_model, {"prompt": {"concepts": MANY}})
    assert outcome.pixels is None
    assert "64 concepts span all that this model's prompts can say; name fewer" in outcome.failure.message


@pytest.mark.parametrize(
    "plan",
    [
        {"prompt": {"concepts": ["harm", f"{MARK}blood"]}},
        {"guidance": {"method": "negative", "concepts": [f"harm{MARK}", "blood"]}},
        {"trajectory": {"concepts": [f"harm {MARK} blood"]}},
        {"output": {"concepts": [{"name": "x", "text": f"harm {MARK} blood", "threshold": 0.2}]}},
    ],
)
def test_a_text_that_would_be_taken_to_end_early_fails_the_picture(
    tiny_model: LoadedModel, plan: dict[str, Any]
) -> None:
    outcome = made(tiny_model, plan)
    assert outcome.pixels is None
    assert MARK in outcome.failure.message


def test_a_prompt_that_hides_from_safree_is_refused(tiny_model: LoadedModel) -> None:
    """All its pooled embeddings would be those of the empty prompt, and no word a trigger."""
    with pytest.raises(UnreadableText, match="taken to end"):
        tiny_model.methods.prompts.read(f"{MARK} a gun")


@pytest.mark.parametrize("prompt", ["", "a"])
def test_safree_takes_prompts_of_no_word_and_of_one(tiny_model: LoadedModel, prompt: str) -> None:
    outcome = made(tiny_model, {"prompt": {"concepts": ["harm", "blood"]}}, prompt=prompt)
    assert outcome.failure is None
    if not prompt:
        assert (outcome.applied["prompt"]["steered_words"], outcome.applied["prompt"]["acting_steps"]) == ([], 0)


@pytest.mark.parametrize("broken", ["embedding", "masked", "concepts"])
def test_safree_does_not_pass_over_what_is_not_a_number(broken: str) -> None:
    given = {"embedding": torch.randn(6, 16), "masked": torch.randn(4, 16), "concepts": torch.randn(3, 16)}
    given[broken][1, 2] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        SteeredPrompt(PromptTokens(given["embedding"], given["masked"]), given["concepts"], ("a", "b", "c"))


def test_sega_does_not_switch_an_edit_off_for_what_is_not_a_number() -> None:
    guidance = SemanticGuidance(Conditioning("a", "", 7.5, 4), [SegaConcept(text="harm", warmup_steps=0)], 0.0, 0.0)
    output = torch.randn(3, 4, 8, 8)
    output[2, 1, 3, 3] = float("nan")
    assert guidance.combine(output, 0).isnan().any()


def test_a_filter_without_concepts_of_its_own_scores_the_checkers(tiny_model: LoadedModel) -> None:
    outcome = made(tiny_model, {"output": {"concepts": []}})
    assert len(outcome.scores) == 20


def test_the_same_text_twice_scores_alike_and_the_stricter_action_holds(tiny_model: LoadedModel) -> None:
    concepts = tuple(
        FilterConcept(name=name, text=text, threshold=-1, action=action)
        for name, text, action in (("one", "Harm", "annotate"), ("two", " harm ", "block"))
    )
    [outcome] = engines.run(
        engines.engine(tiny_model), [replace(engines.spec(), plan=SafetyPlan(output=Filter(concepts=concepts)))]
    )
    one, two = outcome.scores[-2:]
    assert one.score == two.score
    assert decide(outcome.scores, outcome.spec.plan.output).action is Action.BLOCK
