"""The samplers' tables against their formulas in float64; the parity tests hold them against diffusers' classes."""

import pytest
import torch

from contract.request import Scheduler
from tests import tiny
from workers.engine.schedule import COLUMNS, Schedule, advance, build_schedule

CONFIG = dict(tiny.pipeline().scheduler.config)


def walk(schedule: Schedule, noise: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """A whole course under a UNet that always predicts the true noise of the sample for one clean latent."""
    sample = noise * schedule.init_scale
    previous = torch.zeros_like(noise)
    for line in schedule.table:
        values = dict(zip(COLUMNS, line, strict=True))
        output = (clean - values["cx"] * sample) / values["co"]  # the ε whose predicted clean latent is `clean`
        sample, previous = advance(sample, output, previous, line[None], lambda predicted: predicted)
    return sample


@pytest.mark.parametrize("scheduler", list(Scheduler))
@pytest.mark.parametrize("steps", [2, 7, 50])
def test_a_perfect_prediction_ends_at_the_clean_latent(scheduler: Scheduler, steps: int) -> None:
    torch.manual_seed(0)
    noise, clean = torch.randn(2, 1, 4, 2, 2, dtype=torch.float64)
    schedule = build_schedule(scheduler, steps, CONFIG)
    end = walk(schedule, noise, clean)
    # DDIM of this configuration ends one training step short of no noise at all.
    residue = 0.05 if scheduler is Scheduler.DDIM else 1e-12
    assert (end - clean).abs().max() <= residue * noise.abs().max()


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_v_prediction_is_the_same_course_as_epsilon(scheduler: Scheduler) -> None:
    """v = α·noise − σ·clean and ε describe one prediction; both tables must move the sample alike."""
    torch.manual_seed(1)
    sample, previous, clean = torch.randn(3, 5, 4, 2, 2, dtype=torch.float64)
    by_epsilon = build_schedule(scheduler, 5, CONFIG)
    by_v = build_schedule(scheduler, 5, CONFIG | {"prediction_type": "v_prediction"})
    outputs = []
    for schedule in (by_epsilon, by_v):
        lines = schedule.table[:, :, None, None, None]
        outputs.append((clean - lines[:, 1] * sample) / lines[:, 2])
    moved = [
        advance(sample, output, previous, schedule.table, lambda predicted: predicted)[0]
        for schedule, output in zip((by_epsilon, by_v), outputs, strict=True)
    ]
    assert (moved[0] - moved[1]).abs().max() <= 1e-10


def test_more_steps_than_the_model_was_trained_with_are_refused() -> None:
    with pytest.raises(ValueError, match="1001"):
        build_schedule(Scheduler.DDIM, 1001, CONFIG)


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        build_schedule(Scheduler.DDIM, 5, CONFIG | {"prediction_type": "sample"})
