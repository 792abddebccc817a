"""The order of strictness: the effective plan is never under the floor, whatever is asked for."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contract.filter import Action, ConceptRule, Filter, FilterConcept
from contract.plan import SafetyPlan
from contract.policy import InForce, Policy
from contract.steering import Erased, Negative, Safree, Sld, Unguidance
from contract.strictness import NO_FLOOR, SLD_PRESETS, joint_floor, shortfalls, strictest
from contract.verdict import TEXT_CONCEPTS, ConceptScore, at_thresholds_of, decide


def floor_of(**places: object) -> SafetyPlan:
    return SafetyPlan.model_validate(places)


def test_without_a_floor_the_plan_stays_as_requested() -> None:
    plan = SafetyPlan.from_short_form(["sld:max", "erased:v1", "safree"])
    assert strictest(plan, NO_FLOOR) == plan
    assert strictest(SafetyPlan(), NO_FLOOR) == SafetyPlan()


def test_an_empty_place_takes_the_floors_method() -> None:
    floor = floor_of(prompt=Safree(), weights=Erased(variant="v1"), trajectory=Unguidance(), output=Filter())
    plan = strictest(SafetyPlan.from_short_form("sld"), floor)
    assert plan.methods == ("safree", "erased", "sld", "unguidance", "filter")


def test_the_floors_method_takes_the_place_of_another() -> None:
    floor = floor_of(guidance=Sld(method="sld", preset="strong"))
    assert strictest(SafetyPlan(guidance=Negative()), floor).guidance == floor.guidance


@pytest.mark.parametrize(
    ("requested", "stays"),
    [
        (Sld(method="sld", preset="max"), True),
        (Sld(method="sld", preset="strong"), True),
        (Sld(method="sld", preset="medium"), False),
        (Sld(method="sld", preset="max", scale=0), False),
        (Sld(method="sld", preset="max", concepts=("kittens",)), False),
    ],
)
def test_sld_stays_only_as_a_preset_that_is_not_weaker(requested: Sld, stays: bool) -> None:
    floor = floor_of(guidance=Sld(method="sld", preset="strong"))
    assert (strictest(SafetyPlan(guidance=requested), floor).guidance == requested) is stays


@pytest.mark.parametrize("asked", list(Action))
@pytest.mark.parametrize("demanded", list(Action))
def test_the_stricter_action_holds(asked: Action, demanded: Action) -> None:
    order = list(Action)
    plan = strictest(SafetyPlan(output=Filter(action=asked)), floor_of(output=Filter(action=demanded)))
    assert plan.output is not None
    assert order.index(plan.output.action) == max(order.index(asked), order.index(demanded))


def test_a_requested_concept_cannot_weaken_the_floor() -> None:
    demanded = Filter(action=Action.BLOCK, concepts=(FilterConcept(name="knife", text="a knife", threshold=0.2),))
    asked = Filter(
        action=Action.ANNOTATE,
        concepts=(
            FilterConcept(name="knife", text="a kitten", threshold=0.9, action=Action.ANNOTATE),
            FilterConcept(name="weapon", text="a kitten", threshold=0.9, action=Action.ANNOTATE),
        ),
    )
    output = strictest(SafetyPlan(output=asked), floor_of(output=demanded)).output
    assert output is not None
    assert output.action is Action.BLOCK
    knife, weapon = output.concepts
    assert (knife.text, knife.threshold, knife.action) == ("a knife", 0.2, Action.BLOCK)
    assert weapon.action is Action.BLOCK


def test_a_requested_concept_can_be_stricter_than_the_floor() -> None:
    demanded = Filter(action=Action.ANNOTATE, concepts=(FilterConcept(name="knife", text="a knife", threshold=0.2),))
    asked = Filter(concepts=(FilterConcept(name="knife", text="a knife", threshold=0.1, action=Action.BLOCK),))
    output = strictest(SafetyPlan(output=asked), floor_of(output=demanded)).output
    assert output is not None
    assert (output.concepts[0].threshold, output.concepts[0].action) == (0.1, Action.BLOCK)


@pytest.mark.parametrize("weaker", [Action.ANNOTATE, Action.BLUR, Action.REGENERATE, Action.REVIEW])
def test_a_floor_that_blocks_is_not_weakened(weaker: Action) -> None:
    asked = Filter(action=weaker, concepts=(FilterConcept(name="knife", text="a knife", threshold=0.2, action=weaker),))
    output = strictest(SafetyPlan(output=asked), floor_of(output=Filter(action=Action.BLOCK))).output
    assert output is not None
    assert output.actions == {Action.BLOCK}


@pytest.mark.parametrize(
    ("asked", "demanded", "times"),
    [
        (Filter(action=Action.REGENERATE, regenerations=5), Filter(action=Action.REGENERATE, regenerations=1), 1),
        (Filter(action=Action.REGENERATE, regenerations=1), Filter(action=Action.REGENERATE), 1),
        (Filter(action=Action.REGENERATE, regenerations=5), Filter(action=Action.BLUR), 5),
        (Filter(action=Action.ANNOTATE), Filter(action=Action.REGENERATE, regenerations=3), 3),
        (Filter(action=Action.REGENERATE, regenerations=5), Filter(), 0),
        (Filter(), Filter(action=Action.REGENERATE, regenerations=3), 3),
        (Filter(action=Action.BLOCK), Filter(action=Action.REGENERATE, regenerations=3), 0),
    ],
)
def test_no_request_regenerates_more_often_than_the_floor(asked: Filter, demanded: Filter, times: int) -> None:
    plan = strictest(SafetyPlan(output=asked), floor_of(output=demanded))
    assert plan.output is not None
    assert plan.output.most_regenerations == times
    assert SafetyPlan.model_validate_json(plan.model_dump_json()) == plan  # as it crosses Redis


def test_each_concept_has_a_number_of_its_own_and_of_several_the_smallest_holds() -> None:
    own = ConceptRule(name="knife", action=Action.REGENERATE, regenerations=4)
    demanded = Filter(
        action=Action.REGENERATE, regenerations=3, rules=(own, ConceptRule(name="gore", action=Action.BLOCK))
    )
    assert [demanded.regenerations_on(*names) for names in (("knife",), ("weapon",), ("knife", "weapon"))] == [4, 3, 3]
    assert [demanded.regenerations_on(*names) for names in ((), ("gore",), ("gore", "knife"))] == [0, 0, 4]
    assert demanded.most_regenerations == 4
    asked = Filter(rules=(ConceptRule(name="weapon", action=Action.REGENERATE, regenerations=1),))
    plan = strictest(SafetyPlan(output=asked), floor_of(output=demanded)).output
    assert plan is not None
    assert [plan.regenerations_on(name) for name in ("knife", "weapon", "gore", "blood")] == [4, 1, 0, 3]
    for greedy in (Filter(action=Action.REGENERATE, regenerations=5), Filter(rules=(own,))):
        [of_knife] = {rule.regenerations for rule in demanded.rules} - {None}
        plan = strictest(SafetyPlan(output=greedy), floor_of(output=demanded)).output
        assert plan is not None
        assert plan.regenerations_on("knife") <= of_knife
        more = own.model_copy(update={"regenerations": 5})
        over = plan.model_copy(update={"rules": (more, *plan.rules[1:])})
        assert shortfalls(SafetyPlan(output=over), floor_of(output=demanded)) == ("output",)


@pytest.mark.parametrize("action", [None, Action.BLOCK])
def test_a_number_for_what_does_not_regenerate_is_refused_with_its_place(action: Action | None) -> None:
    rules = [{"name": "gore"}, {"name": "knife", "action": action, "regenerations": 2}]
    with pytest.raises(ValueError, match=r"(?s)rules\n.*1: regenerations does nothing without the action 'regenerate'"):
        Filter.model_validate({"action": "review", "rules": rules})
    assert Filter.model_validate({"action": "regenerate", "rules": [{"name": "knife", "regenerations": 2}]})


NAMES = st.sampled_from(["weapon", "knife", "gore"])
THRESHOLDS = st.sampled_from([0.1, 0.2, 0.3, 0.4])
ACTIONS = st.sampled_from(list(Action))
TIMES = st.none() | st.integers(1, 5)
ACTING = st.fixed_dictionaries({"action": st.none() | ACTIONS}) | st.fixed_dictionaries(
    {"action": st.just(Action.REGENERATE), "regenerations": TIMES}
)
CONCEPTS = st.builds(
    lambda acting, **fields: FilterConcept(**fields, **acting),
    ACTING,
    name=NAMES,
    text=st.sampled_from(["a", "b"]),
    threshold=THRESHOLDS,
)
RULES = st.builds(
    lambda acting, **fields: ConceptRule(**fields, **acting),
    ACTING,
    name=NAMES,
    threshold=THRESHOLDS,
    loosens=st.booleans(),
) | st.builds(ConceptRule, name=NAMES, action=ACTIONS)


def distinct(named: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(named, max_size=3, unique_by=lambda one: one.name).map(tuple)


FILTERS = st.fixed_dictionaries(
    {"concepts": distinct(CONCEPTS), "rules": distinct(RULES)},
    optional={"action": ACTIONS},
).map(lambda fields: Filter(**fields)) | st.builds(
    Filter,
    action=st.just(Action.REGENERATE),
    regenerations=TIMES,
    rules=distinct(RULES | st.builds(ConceptRule, name=NAMES, regenerations=st.integers(1, 5))),
)
PLANS = st.builds(
    SafetyPlan,
    prompt=st.none() | st.builds(Safree, concepts=st.none() | st.just(("gore",))),
    weights=st.none() | st.builds(Erased, variant=st.sampled_from(["v1", "v2"])),
    guidance=st.none()
    | st.builds(Negative)
    | st.builds(Sld, method=st.just("sld"), preset=st.sampled_from(SLD_PRESETS), scale=st.sampled_from([None, 1.0])),
    trajectory=st.none() | st.builds(Unguidance, preset=st.sampled_from(["single", "multi"])),
    output=st.none() | FILTERS,
)
SCORES = st.lists(st.tuples(NAMES, st.booleans(), THRESHOLDS, st.floats(0, 0.5)), min_size=1, max_size=6)


def scored(drawn: list[tuple[str, bool, float, float]], floor: Filter) -> list[ConceptScore]:
    """As a detector gives them: concepts of its own, and texts against the thresholds of the filter that is judged."""
    thresholds = {concept.name: concept.threshold for concept in floor.concepts}
    return [
        ConceptScore(
            name=name,
            category="custom",
            detector=TEXT_CONCEPTS if is_text and name in thresholds else "checker",
            detector_version="1",
            score=score,
            threshold=thresholds[name] if is_text and name in thresholds else own,
            margin=score - own,
            flagged=score > own,
        )
        for name, is_text, own, score in drawn
    ]


def rank_of(scores: list[ConceptScore], output: Filter | None) -> tuple[int, int]:
    """How strictly a filter acts on these scores: 0 for not at all; and of what makes pictures again, how seldom."""
    action = decide(scores, output).action
    if output is None or action is None:
        return 0, 0
    found = (score.name for score in at_thresholds_of(output, scores) if score.flagged)
    return 1 + list(Action).index(action), -output.regenerations_on(*found) if action is Action.REGENERATE else 0


@settings(max_examples=300, deadline=None)
@given(asked=PLANS, policy=PLANS, deployment=PLANS, drawn=SCORES)
def test_no_request_gets_under_the_floor_at_any_place(
    asked: SafetyPlan, policy: SafetyPlan, deployment: SafetyPlan, drawn: list[tuple[str, bool, float, float]]
) -> None:
    in_force = InForce(Policy(id="any", version=1, floor=policy), deployment)
    plan = in_force.effective(asked)
    assert shortfalls(plan, in_force.floor) == ()
    assert shortfalls(plan, deployment) == ()
    assert in_force.conflicts or shortfalls(plan, policy) == ()
    assert SafetyPlan.model_validate_json(plan.model_dump_json()) == plan  # as it crosses Redis
    for floor in (in_force.floor, deployment):
        if floor.output is not None:
            scores = scored(drawn, floor.output)
            assert rank_of(scores, plan.output) >= rank_of(scores, floor.output)


@settings(max_examples=200, deadline=None)
@given(plan=PLANS, floor=PLANS, drawn=SCORES)
def test_a_filter_that_holds_never_acts_more_mildly(
    plan: SafetyPlan, floor: SafetyPlan, drawn: list[tuple[str, bool, float, float]]
) -> None:
    """What `shortfalls` says of thresholds and actions is what `decide` makes of scores."""
    if floor.output is not None and "output" not in shortfalls(plan, floor):
        scores = scored(drawn, floor.output)
        assert rank_of(scores, plan.output) >= rank_of(scores, floor.output)


def test_a_filter_that_names_no_action_leaves_it_to_the_floor() -> None:
    floor = floor_of(output={"action": "annotate", "rules": [{"name": "weapon", "action": "review"}]})
    plan = strictest(SafetyPlan.from_short_form("filter"), floor)
    assert plan.output is not None
    assert (plan.output.action, plan.output.action_on("weapon")) == (Action.ANNOTATE, Action.REVIEW)
    plan = strictest(SafetyPlan.from_short_form("filter:block"), floor)
    assert plan.output is not None
    assert plan.output.actions == {Action.BLOCK}


def test_only_a_policy_raises_a_detectors_threshold() -> None:
    rule = ConceptRule(name="weapon", threshold=0.9, loosens=True)
    loose = floor_of(output=Filter(rules=(rule,)))
    [score] = scored([("weapon", False, 0.2, 0.5)], Filter())
    assert decide([score], loose.output).action is None
    assert decide([score], strictest(SafetyPlan.from_short_form("filter"), loose).output).action is None
    assert decide([score], strictest(loose, floor_of(output=Filter())).output).action is Action.BLOCK
    assert decide([score], joint_floor(loose, floor_of(output=Filter())).output).action is Action.BLOCK
    with pytest.raises(ValueError, match="does nothing without a threshold"):
        ConceptRule(name="weapon", loosens=True)
