"""Pictures of one group share what is alike between them, and come out as if each had run alone."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contract.plan import SafetyPlan
from contract.request import Scheduler
from tests import engines
from workers.engine.engine import Engine, EngineLimits
from workers.engine.model import EngineModel
from workers.engine.picture import Outcome, PictureSpec
from workers.engine.row import Row
from workers.models import LoadedModel
from workers.safety.classifier_free import ClassifierFreeGuidance
from workers.safety.protocol import Conditioning, RowSafety

UNTRIGGERED = {"trajectory": {"preset": "filter", "threshold": 1.0}}
TRIGGERED = {"trajectory": {"preset": "filter", "threshold": -1.0, "strength": 0.5}}
PLANS: dict[str, Any] = {
    "plain": {},
    "filter": {"output": {}},
    "sld-medium": {"guidance": {"method": "sld", "preset": "medium", "concepts": ["harm"]}},
    "unguidance": UNTRIGGERED,
}


def group(plans: list[Any], name: str = "group", first: int = 0, **changes: Any) -> list[PictureSpec]:
    written = [SafetyPlan.model_validate(plan) if isinstance(plan, dict) else plan for plan in plans]
    return [
        engines.spec(first + index, **{"seed": 5, "steps": 25, "group": name, "plan": plan} | changes)
        for index, plan in enumerate(written)
    ]


def alone(specs: list[PictureSpec]) -> list[PictureSpec]:
    return [replace(spec, group=None, index=0) for spec in specs]


def run(model: LoadedModel, specs: list[PictureSpec], limits: EngineLimits | None = None) -> list[Outcome]:
    outcomes = engines.run(engines.engine(model, limits), specs)
    assert [outcome.failure for outcome in outcomes] == [None] * len(specs)
    return outcomes


def test_what_the_plans_have_in_common_is_computed_once(tiny_model: LoadedModel) -> None:
    """Plain, filter and a gate that never opens are one picture; SLD leaves it after the step that first pushes."""
    together = [outcome.unet_rows for outcome in run(tiny_model, group(list(PLANS.values())))]
    apart = [run(tiny_model, [spec])[0].unet_rows for spec in alone(group(list(PLANS.values())))]
    assert apart == [2 * 25, 2 * 25, 3 * 25, 2 * 25]
    assert together == [2 * 25, 0, 11 * 1 + 14 * 3, 0]
    assert sum(together) <= 0.6 * sum(apart)


MANY = [
    {},
    {"output": {}},
    {"guidance": {"method": "sld", "preset": "weak", "concepts": ["harm"]}},
    {"guidance": {"method": "sld", "preset": "max", "concepts": ["harm"]}},
    {"guidance": {"method": "negative", "concepts": ["harm"]}},
    {"guidance": {"method": "sega", "concepts": [{"text": "harm", "warmup_steps": 4}], "momentum_scale": 0.0}},
    {"prompt": {"concepts": ["harm", "blood"]}},
    TRIGGERED,
]


@pytest.mark.parametrize("scheduler", [Scheduler.DDIM, Scheduler.DPMPP_2M])
@pytest.mark.parametrize("limits", [None, EngineLimits(unet_rows=5), EngineLimits(unet_rows=1, pictures_judged=3)])
def test_a_group_among_strangers_equals_solo_runs(
    exact_model: LoadedModel, scheduler: Scheduler, limits: EngineLimits | None
) -> None:
    plans = MANY if scheduler is Scheduler.DDIM else MANY[:-1]
    members = group(plans, steps=18, scheduler=scheduler, first=1)
    strangers = [engines.spec(0, seed=5, steps=18, scheduler=scheduler), engines.spec(len(plans) + 1, steps=7)]
    specs = [strangers[0], *members, strangers[1]]
    together = engines.final_latents(exact_model, specs, limits)
    for spec, latents in zip(specs, together, strict=True):
        [solo] = engines.final_latents(exact_model, alone([spec]))
        assert (latents - solo).abs().max() <= 1e-10
    assert len({tuple(latents.flatten().tolist()) for latents in together[1 : len(plans) + 1]}) >= len(plans) - 3


def test_a_stranger_with_the_same_prompt_and_seed_shares_nothing(tiny_model: LoadedModel) -> None:
    outcomes = run(tiny_model, [*group([{}, {"output": {}}]), *group([{}], "other", first=2), engines.spec(3, seed=5)])
    assert [outcome.unet_rows for outcome in outcomes] == [50, 0, 50, 8]


def test_two_prompts_steered_alike_share_and_a_plain_one_does_not_share_with_them(tiny_model: LoadedModel) -> None:
    """A prompt whose words are all steered; the empty branch is common to all three while their latents are."""
    safree = {"prompt": {"concepts": ["a cat"]}}
    outcomes = run(tiny_model, group([safree, safree | {"output": {}}, {}], prompt="a cat", steps=6))
    steered = outcomes[0].applied["prompt"]["steered_words"]
    rows = [outcome.unet_rows for outcome in outcomes]
    assert rows[:2] == [12, 0]
    assert rows[2] == (1 + 5 * 2 if steered and outcomes[0].applied["prompt"]["acting_steps"] else 0)


def test_a_group_larger_than_a_call_is_still_right(tiny_model: LoadedModel) -> None:
    concepts = [{"text": f"harm {i}", "warmup_steps": 0} for i in range(9)]
    sega = {"guidance": {"method": "sega", "concepts": concepts}}
    limits = EngineLimits(unet_rows=4)
    outcomes = run(tiny_model, group([{}, sega, {"output": {}}], steps=3), limits)
    assert outcomes[1].unet_rows >= 3 * 11 - 2
    for spec, latents in zip(
        group([{}, sega, {}], steps=3),
        engines.final_latents(tiny_model, group([{}, sega, {}], steps=3), limits),
        strict=True,
    ):
        [solo] = engines.final_latents(tiny_model, alone([spec]))
        assert (latents - solo).abs().max() <= 1e-10


def test_a_group_starts_only_when_there_is_room_for_all_of_it(tiny_model: LoadedModel) -> None:
    running = engines.engine(tiny_model, EngineLimits(pictures_in_flight=4))
    running.submit(engines.spec(0, job_id="first", steps=6), engines.spec(1, job_id="first", steps=3))
    running.submit(*group([{}] * 3, steps=4, job_id="compare", first=2))
    running.submit(engines.spec(5, job_id="last", steps=2))
    in_flight = []
    while not running.is_idle:
        events = running.step()
        in_flight.append([event.index for event in events if not isinstance(event, Outcome)])
    assert in_flight[:3] == [[0, 1]] * 3
    assert in_flight[3] == [0, 2, 3, 4]
    assert in_flight[-1] == [5] or in_flight[-2] == [5]


def test_a_group_larger_than_the_engine_runs_alone(tiny_model: LoadedModel) -> None:
    limits = EngineLimits(pictures_in_flight=2)
    outcomes = run(tiny_model, [engines.spec(0), *group([{}] * 5, steps=4, first=1), engines.spec(6)], limits)
    assert [outcome.unet_rows for outcome in outcomes] == [8, 8, 0, 0, 0, 0, 8]


class Failing(ClassifierFreeGuidance):
    """Raises at its third step."""

    def combine(self, output: Any, step: int) -> Tensor:
        if step == 2:
            raise RuntimeError("third step")
        return super().combine(output, step)


@pytest.mark.parametrize("fault", ["start", "step"])
@pytest.mark.parametrize("faulty", [0, 1])
def test_a_member_that_fails_takes_no_other_with_it(tiny_model: LoadedModel, fault: str, faulty: int) -> None:
    def build(plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:
        if plan.output is None:
            return tiny_model.methods(plan, conditioning)
        if fault == "start":
            raise ValueError("cannot start")
        return RowSafety(Failing(conditioning))

    plans: list[Any] = [{}, {}, {}]
    plans[faulty] = {"output": {}}
    outcomes = engines.run(Engine(tiny_model.parts, build), group(plans, steps=6))
    assert [outcome.failure is not None for outcome in outcomes] == [index == faulty for index in range(3)]
    [healthy] = run(tiny_model, alone(group([{}], steps=6)))
    for index in {0, 1, 2} - {faulty}:
        assert np.array_equal(outcomes[index].pixels, healthy.pixels)
    assert sum(outcome.unet_rows for outcome in outcomes) == 12


class Cramped(EngineModel):
    """A model on a device that holds two UNet rows."""

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
        if len(latents) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().predict(latents, timesteps, conditioning)


def test_out_of_memory_fails_only_the_member_that_does_not_fit(tiny_model: LoadedModel) -> None:
    cramped = Cramped(**{name: getattr(tiny_model.parts, name) for name in EngineModel.__dataclass_fields__})
    sld = {"guidance": {"method": "sld", "preset": "max", "concepts": ["harm"]}}
    outcomes = engines.run(engines.engine(tiny_model, parts=cramped), group([{}, sld, {"output": {}}], steps=4))
    failures = [outcome.failure.code if outcome.failure else None for outcome in outcomes]
    assert failures == [None, "out_of_memory", None]


def test_cancellation_takes_the_whole_group_and_nobody_else(tiny_model: LoadedModel) -> None:
    running = engines.engine(tiny_model)
    running.submit(engines.spec(0, job_id="other"), *group([{}] * 3, first=1, job_id="compare"))
    running.step()
    running.cancel("compare")
    outcomes = engines.run(running)
    assert [outcome.failure.code if outcome.failure else None for outcome in outcomes] == [None, *["canceled"] * 3]


def test_rows_that_turned_to_nan_share_nothing(tiny_model: LoadedModel) -> None:
    """NaN equals nothing, itself included; each fails by itself in the end."""
    nan = replace(tiny_model.parts, project_text=lambda text: tiny_model.parts.project_text(text) * float("nan"))
    outcomes = engines.run(engines.engine(tiny_model, parts=nan), group([{}, {"output": {}}], steps=3))
    assert [outcome.failure.code if outcome.failure else None for outcome in outcomes] == ["invalid_output"] * 2
    assert [outcome.unet_rows for outcome in outcomes] == [6, 4]


def test_a_row_is_freed_as_soon_as_it_is_left(tiny_model: LoadedModel) -> None:
    """Its latents lie on the device: no cycle may keep them until the collector comes."""
    import gc
    import weakref

    running = engines.engine(tiny_model)
    running.submit(*group([{}, {"output": {}}], steps=2))
    gc.disable()
    try:
        running.step()
        rows = [weakref.ref(row) for row in running._rows]
        assert all(isinstance(row(), Row) for row in rows)
        engines.run(running)
        assert [row() for row in rows] == [None, None]
    finally:
        gc.enable()
