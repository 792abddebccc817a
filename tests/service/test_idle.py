"""What would do nothing is named; what acts, if only for one step, is not."""

from typing import Any

import pytest

from contract.idle import idle_settings
from contract.plan import SafetyPlan
from contract.request import Scheduler


def fields(plan: dict[str, Any], **changes: Any) -> list[str]:
    values: dict[str, Any] = {
        "guidance_scale": 7.5, "steps": 20, "scheduler": Scheduler.DDIM, "negative_prompt": "",
    }  # fmt: skip
    return [field for field, _ in idle_settings(SafetyPlan.model_validate(plan), **(values | changes))]


def sega(*edits: dict[str, Any]) -> dict[str, Any]:
    concepts = [{"text": f"gore {index}"} | edit for index, edit in enumerate(edits)]
    return {"guidance": {"method": "sega", "concepts": concepts}}


SEGA, SLD = {"guidance": {"method": "sega"}}, {"guidance": {"method": "sld"}}
FIRST, SECOND = "safety.guidance.concepts.0", "safety.guidance.concepts.1"


@pytest.mark.parametrize(
    ("plan", "changes", "named"),
    [
        (SLD, {"steps": 10}, ["steps"]),
        (SLD, {"guidance_scale": 1}, ["guidance_scale"]),
        ({"guidance": {"method": "sld", "scale": 0}}, {}, ["safety.guidance.scale"]),
        (SEGA, {"steps": 10}, ["steps"]),
        (sega({}, {"scale": 0}), {}, [f"{SECOND}.scale"]),
        (sega({"warmup_steps": 0}, {"warmup_steps": 20}), {}, [f"{SECOND}.warmup_steps"]),
        (sega({"cooldown_step": 10}), {}, [f"{FIRST}.cooldown_step"]),
        (sega({"warmup_steps": 3, "cooldown_step": 2}), {}, [f"{FIRST}.cooldown_step"]),
        ({"trajectory": {}}, {"scheduler": Scheduler.EULER}, ["scheduler"]),
        ({"trajectory": {"strength": 0}}, {}, ["safety.trajectory.strength"]),
        ({"trajectory": {"start_step": 5}}, {}, ["safety.trajectory.schedule"]),
        ({"trajectory": {"schedule": "constant", "end_step": 5}}, {}, ["safety.trajectory.schedule"]),
        ({"trajectory": {"schedule": "window", "start_step": 20}}, {}, ["safety.trajectory.start_step"]),
        ({"trajectory": {"schedule": "window", "start_step": 5, "end_step": 5}}, {}, ["safety.trajectory.end_step"]),
        ({"trajectory": {"schedule": "linear", "end_step": 21}}, {}, ["safety.trajectory.end_step"]),
        ({}, {"negative_prompt": "fog", "guidance_scale": 1}, ["negative_prompt"]),
        ({}, {"negative_prompt": "fog", "guidance_scale": 0}, ["negative_prompt"]),
    ],
)
def test_what_would_do_nothing_is_named(plan: dict[str, Any], changes: dict[str, Any], named: list[str]) -> None:
    assert fields(plan, **changes) == named


@pytest.mark.parametrize(
    ("plan", "changes"),
    [
        ({}, {"guidance_scale": 0}),
        ({}, {"negative_prompt": "fog"}),
        (SLD, {"steps": 11}),
        ({"guidance": {"method": "sld", "preset": "max"}}, {"steps": 1}),
        (SEGA, {"steps": 11}),
        (sega({"warmup_steps": 19}, {"cooldown_step": 11}), {}),
        (sega({"cooldown_step": 150}), {}),
        ({"trajectory": {"schedule": "window", "start_step": 19, "end_step": 20}}, {}),
        ({"prompt": {}, "output": {}}, {"guidance_scale": 1}),
    ],
)
def test_what_acts_is_let_through(plan: dict[str, Any], changes: dict[str, Any]) -> None:
    assert fields(plan, **changes) == []
