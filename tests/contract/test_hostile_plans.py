"""What a plan may not hold, whoever builds it."""

from typing import Any

import pytest
from pydantic import ValidationError

from contract.filter import Action, Filter
from contract.plan import SafetyPlan
from contract.steering import Sega

CONCEPTS_OF = {
    "safree": ("prompt", {}),
    "negative": ("guidance", {"method": "negative"}),
    "sld": ("guidance", {"method": "sld"}),
    "unguidance": ("trajectory", {}),
}
INFINITE = [float("nan"), float("inf"), float("-inf")]


def plan(place: str, **written: Any) -> SafetyPlan:
    return SafetyPlan.model_validate({place: written})


def edits(*texts: str) -> dict[str, Any]:
    return {"method": "sega", "concepts": [{"text": text} for text in texts]}


@pytest.mark.parametrize("texts", [[], [""], ["  "], ["\u2028\u3000\x85"], ["gore", ""], ["x"] * 65, ["x" * 301]])
@pytest.mark.parametrize("method", [*CONCEPTS_OF, "sega"])
def test_empty_blank_and_too_many_concepts_are_refused(method: str, texts: list[str]) -> None:
    place, written = CONCEPTS_OF.get(method, ("guidance", {}))
    with pytest.raises(ValidationError):
        plan(place, **(edits(*texts) if method == "sega" else written | {"concepts": texts}))


@pytest.mark.parametrize("twin", ["gore", "GORE", " gore ", "Gore\t"])
@pytest.mark.parametrize("method", [*CONCEPTS_OF, "sega"])
def test_a_concept_that_reads_the_same_twice_is_refused(method: str, twin: str) -> None:
    place, written = CONCEPTS_OF.get(method, ("guidance", {}))
    texts = ["gore", "blood", twin]
    with pytest.raises(ValidationError, match="concepts 0 and 2 are the same text"):
        plan(place, **(edits(*texts) if method == "sega" else written | {"concepts": texts}))


def test_blanks_within_and_composed_letters_read_the_same() -> None:
    for one, other in (("a  red\thand", "A red hand"), ("caf\u00e9", "cafe\u0301")):
        with pytest.raises(ValidationError, match="same text"):
            plan("prompt", concepts=[one, other])


@pytest.mark.parametrize("method", [*CONCEPTS_OF, "sega"])
def test_sixty_four_concepts_are_taken(method: str) -> None:
    place, written = CONCEPTS_OF.get(method, ("guidance", {}))
    texts = [f"concept {number}" for number in range(64)]
    taken = plan(place, **(edits(*texts) if method == "sega" else written | {"concepts": texts}))
    assert len(getattr(taken, place).concepts) == 64


@pytest.mark.parametrize("number", INFINITE)
@pytest.mark.parametrize(
    ("place", "written", "field"),
    [
        ("guidance", {"method": "sld"}, "scale"),
        ("guidance", {"method": "sld"}, "threshold"),
        ("guidance", {"method": "sld"}, "momentum_scale"),
        ("guidance", {"method": "sld"}, "momentum_beta"),
        ("guidance", {"method": "sega"}, "momentum_scale"),
        ("guidance", {"method": "sega"}, "momentum_beta"),
        ("trajectory", {}, "threshold"),
        ("trajectory", {}, "strength"),
    ],
)
def test_a_number_that_is_not_finite_is_refused(place: str, written: dict[str, Any], field: str, number: float) -> None:
    with pytest.raises(ValidationError):
        plan(place, **written, **{field: number})


@pytest.mark.parametrize("number", INFINITE)
def test_a_concepts_own_number_that_is_not_finite_is_refused(number: float) -> None:
    for field in ("scale", "threshold"):
        with pytest.raises(ValidationError):
            Sega.model_validate({"method": "sega", "concepts": [{"text": "gore", field: number}]})
    with pytest.raises(ValidationError):
        Filter.model_validate({"concepts": [{"name": "x", "text": "gore", "threshold": number}]})


@pytest.mark.parametrize("name", ["", " ", "Gore", "gore ", "go  re", "gore\n", "x" * 41, "gore!"])
def test_a_concepts_name_is_one_way_to_write_it(name: str) -> None:
    with pytest.raises(ValidationError):
        Filter.model_validate({"concepts": [{"name": name, "text": "gore", "threshold": 0.2}]})


def test_concepts_of_the_filter_have_names_of_their_own_and_may_share_a_text() -> None:
    graded = [
        {"name": "hint", "text": "gore", "threshold": 0.2, "action": "annotate"},
        {"name": "proof", "text": "Gore", "threshold": 0.3, "action": "block"},
    ]
    assert len(Filter.model_validate({"concepts": graded}).concepts) == 2
    with pytest.raises(ValidationError, match="repeated: hint"):
        Filter.model_validate({"concepts": [graded[0], graded[0]]})


def test_more_largest_cosines_than_concepts_are_refused() -> None:
    assert plan("trajectory", concepts=["gore", "blood"], top_k=2).trajectory is not None
    with pytest.raises(ValidationError, match="more than the 2 concepts"):
        plan("trajectory", concepts=["gore", "blood"], top_k=3)


@pytest.mark.parametrize("regenerations", [0, 6, -1, 1.5])
def test_regenerations_are_one_to_five(regenerations: float) -> None:
    with pytest.raises(ValidationError):
        Filter.model_validate({"action": "regenerate", "regenerations": regenerations})


def test_regenerations_that_would_do_nothing_are_refused() -> None:
    for action in Action:
        if action is not Action.REGENERATE:
            with pytest.raises(ValidationError, match="without the action 'regenerate'"):
                Filter(action=action, regenerations=2)
    own = {"name": "x", "text": "gore", "threshold": 0.2, "action": "regenerate"}
    assert Filter.model_validate({"concepts": [own], "regenerations": 3}).most_regenerations == 3


def test_how_often_a_picture_is_made_again() -> None:
    assert Filter(action=Action.REGENERATE).most_regenerations == 2
    assert Filter(action=Action.REGENERATE, regenerations=5).most_regenerations == 5
    assert Filter(action=Action.BLUR).most_regenerations == 0


@pytest.mark.parametrize("action", list(Action))
def test_the_short_form_names_the_filters_action(action: Action) -> None:
    assert SafetyPlan.from_short_form(f"filter:{action.value}") == SafetyPlan(output=Filter(action=action))
    with pytest.raises(ValueError, match="choose from: annotate, blur, regenerate, review, block"):
        SafetyPlan.from_short_form("filter:smear")


def test_a_plan_survives_being_written_and_read() -> None:
    for output in (Filter(), Filter(action=Action.REGENERATE), Filter(action=Action.REGENERATE, regenerations=1)):
        written = SafetyPlan(output=output)
        assert SafetyPlan.model_validate_json(written.model_dump_json()) == written
