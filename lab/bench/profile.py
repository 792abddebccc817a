"""One job under torch's profiler, in an engine of its own: where its time goes, by stage and by operator.

Beside a serving worker, never inside one: a profiler slows every job of the batch, and its trace holds shapes and
stacks of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from contract.plan import SafetyPlan
from lab.bench.engine import specs_for
from workers import models
from workers.engine.engine import Engine, EngineLimits
from workers.engine.picture import Outcome, PictureSpec, Tick


@dataclass(frozen=True)
class Operator:
    """All calls of one operator; milliseconds of its own, without what it calls."""

    name: str
    calls: int
    cpu_ms: float
    device_ms: float  # 0 on a CPU


@dataclass(frozen=True)
class Profile:
    """What one job took."""

    seconds: float
    stages_s: dict[str, float]  # summed over its pictures
    ticks: int
    unet_rows: int
    padding_rows: int
    operators: tuple[Operator, ...]  # the most expensive first


def profile_job(
    source: str, *, prompt: str, safety: Sequence[str], pictures: int, steps: int, trace: Path | None = None
) -> Profile:
    """Make the pictures twice, unwatched and then watched, so that nothing is measured that happens only once.

    Raises:
        ValueError: for a plan that is none.
        RuntimeError: when a picture could not be made.
    """
    plan = SafetyPlan.from_short_form(list(safety))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = models.load(source, name="profile", device=device, dtype=dtype)
    specs = [replace(spec, prompt=prompt, plan=plan) for spec in specs_for(model.info, range(pictures), steps)]
    ticks: list[Tick] = []
    engine = Engine(model.parts, model.methods, EngineLimits(pictures_in_flight=pictures), watch=ticks.append)
    _run(engine, specs)
    ticks.clear()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with profile(activities=activities) as watched:
        outcomes = _run(engine, specs)
    if trace is not None:
        watched.export_chrome_trace(str(trace))
    stages = [stage for outcome in outcomes for stage in outcome.stages]
    names = dict.fromkeys(stage.name for stage in stages)
    operators = [
        Operator(each.key, each.count, each.self_cpu_time_total / 1e3, each.self_device_time_total / 1e3)
        for each in watched.key_averages()
    ]
    return Profile(
        seconds=max(stage.ended for stage in stages) - min(stage.began for stage in stages),
        stages_s={name: sum(stage.seconds for stage in stages if stage.name == name) for name in names},
        ticks=len(ticks),
        unet_rows=sum(tick.unet_rows for tick in ticks),
        padding_rows=sum(tick.padding_rows for tick in ticks),
        operators=tuple(sorted(operators, key=lambda each: -(each.device_ms or each.cpu_ms))),
    )


def _run(engine: Engine, specs: Sequence[PictureSpec]) -> list[Outcome]:
    engine.submit(*specs)
    outcomes = []
    while not engine.is_idle:
        outcomes += [event for event in engine.step() if isinstance(event, Outcome)]
    if failed := [outcome.failure for outcome in outcomes if outcome.failure]:
        raise RuntimeError(f"{failed[0].code}: {failed[0].message}")
    return outcomes
