"""What a compare tells beyond its pictures, from judged pictures alone."""

from typing import Any

import numpy as np
import pytest

from contract.job import ComparedPlan, Job
from contract.plan import SafetyPlan
from contract.result import AppliedSafety, Picture, Result, Status
from contract.verdict import Verdict
from tests.service import parts
from workers.blur import blurred
from workers.comparison import Distances, distance, with_comparison
from workers.engine.picture import Outcome, PictureSpec
from workers.results import Judged, judge


def compared(*names: str) -> Job:
    plans = tuple(
        ComparedPlan(label=f"the {name}", requested=name, plan=SafetyPlan.from_short_form(name)) for name in names
    )
    first = plans[0]
    return parts.some_job(seeds=(41,) * len(names), compared=plans, requested=first.requested, plan=first.plan)


def judged(job: Job, index: int, verdict: Verdict = Verdict.PASSED, pixels: Any = None, **picture: Any) -> Judged:
    spec = PictureSpec.all_of(job)[index]
    outcome = Outcome(spec, applied={"output": index}, unet_rows=10 - index)
    return Judged(parts.picture(job, index, verdict, **picture), outcome, pixels)


def grey(value: int) -> Any:
    return np.full((8, 8, 3), value, dtype=np.uint8)


def test_the_pictures_of_a_compare_are_one_group_each_with_its_own_plan() -> None:
    job = compared("none", "filter")
    specs = PictureSpec.all_of(job)
    assert [spec.plan.methods for spec in specs] == [(), ("filter",)]
    assert [(spec.group, spec.seed) for spec in specs] == [(job.id, 41)] * 2
    assert PictureSpec.all_of(parts.some_job())[0].group is None


def test_the_distance_is_the_root_mean_square_of_all_values() -> None:
    assert distance(grey(10), grey(10)) == 0
    assert distance(grey(0), grey(255)) == 255
    half = grey(0)
    half[:4] = 20
    assert distance(grey(0), half) == pytest.approx(20 / 2**0.5, abs=0.05)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 0, 1), (1, 2, 3, 0)])
def test_delivered_pictures_are_measured_in_whatever_order_they_come(order: tuple[int, ...]) -> None:
    job = compared("none", "filter", "negative", "sld")
    pictures = [
        judged(job, 0, pixels=grey(0)),
        judged(job, 1, Verdict.BLOCKED),
        judged(job, 2, Verdict.ERROR),
        judged(job, 3, pixels=grey(30)),
    ]
    distances = Distances()
    for index in order:
        distances.note(pictures[index])
    assert distances.by_index == {0: 0.0, 3: 30.0}
    result = with_comparison(parts.result(job, Status.PARTIAL), job, pictures, distances)
    assert [entry.distance for entry in result.comparison] == [0.0, None, None, 30.0]


@pytest.mark.parametrize("verdict", [Verdict.ERROR, Verdict.BLOCKED, Verdict.REVIEW])
def test_without_a_first_picture_there_is_nothing_to_measure_from(verdict: Verdict) -> None:
    job = compared("none", "filter")
    distances = Distances()
    distances.note(judged(job, 0, verdict))
    distances.note(judged(job, 1, pixels=grey(3)))
    assert distances.by_index == {}


def checkered(spec: PictureSpec, square: int) -> Any:
    y, x = np.indices((spec.height, spec.width)) // square
    return np.repeat(((x + y) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("plans", [("none", "filter:blur"), ("filter:blur", "none")])
def test_the_distance_of_a_blurred_picture_tells_none_of_its_detail(plans: tuple[str, str]) -> None:
    job, info = compared(*plans), parts.model_info(concepts=("weapon",))
    told = set()
    for square in (1, 4):
        distances = Distances()
        for spec in PictureSpec.all_of(job):
            pixels = checkered(spec, square) if spec.plan.output else np.zeros((spec.height, spec.width, 3), np.uint8)
            outcome = Outcome(spec, pixels, (parts.score(0.9),))
            distances.note(judge(outcome, job.of_picture(spec.index), info))
        told.add(distances.by_index[1])
    as_delivered = blurred(checkered(spec, 1))
    assert told == {distance(np.zeros_like(as_delivered), as_delivered)}


def test_a_compare_that_would_take_another_seed_is_no_job() -> None:
    with pytest.raises(ValueError, match="keeps to one seed"):
        compared("none", "filter:regenerate")


def test_an_entry_tells_its_own_plan_and_how_far_it_moved_each_score() -> None:
    job = compared("none", "filter")
    own = parts.score(0.5, name="scythe", detector="clip-concepts")
    pictures = [
        judged(job, 0, concepts=(parts.score(0.31),)),
        judged(job, 1, concepts=(parts.score(0.25), own)),
    ]
    result = with_comparison(parts.result(job, Status.SUCCEEDED), job, pictures, Distances())
    assert result.safety is None
    first, second = result.comparison
    assert (first.label, second.label) == ("the none", "the filter")
    assert (first.differences, first.safety.requested) == ((), "none")
    assert [(each.name, each.difference) for each in second.differences] == [("weapon", -0.06)]
    assert (second.safety.requested, second.safety.applied) == ("filter", {"output": 1})
    assert [entry.unet_rows for entry in result.comparison] == [10, 9]


def test_a_canceled_compare_and_any_other_job_keep_their_result() -> None:
    job = compared("none", "filter")
    assert with_comparison(Result(status=Status.CANCELED), job, [], Distances()).comparison == ()
    plain = parts.some_job()
    result = parts.result(plain, Status.SUCCEEDED, parts.picture(plain, 0))
    assert with_comparison(result, plain, [], Distances()) is result
    assert isinstance(result.safety, AppliedSafety)
    assert isinstance(result.images[0], Picture)


def test_a_compare_with_more_plans_than_pictures_is_no_job() -> None:
    plans = compared("none", "filter").compared
    with pytest.raises(ValueError, match="2 plans cannot be compared on 1 pictures"):
        parts.some_job(compared=plans)
