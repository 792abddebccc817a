"""Engines over tiny checkpoints, and the ways tests drive them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import torch
from torch import Tensor

from contract.plan import SafetyPlan
from contract.request import Scheduler
from workers import models
from workers.engine.engine import Engine, EngineLimits
from workers.engine.model import EngineModel
from workers.engine.picture import Outcome, PictureSpec


def load(folder: Path, dtype: torch.dtype = torch.float64) -> models.LoadedModel:
    """A checkpoint on the CPU, everything but the detector in `dtype`."""
    return models.load(str(folder), name="tiny", device=torch.device("cpu"), dtype=dtype, latent_dtype=dtype)


def engine(model: models.LoadedModel, limits: EngineLimits | None = None, parts: EngineModel | None = None) -> Engine:
    """An engine with the methods that workers serve, over the model's parts or others."""
    return Engine(parts or model.parts, model.methods, limits)


def spec(index: int = 0, **changes: object) -> PictureSpec:
    """A small picture of a tiny checkpoint."""
    return replace(
        PictureSpec(
            job_id="job",
            index=index,
            prompt="a cat",
            negative_prompt="",
            seed=index,
            steps=4,
            guidance_scale=7.5,
            scheduler=Scheduler.DDIM,
            width=32,
            height=32,
            plan=SafetyPlan.from_short_form("filter"),
        ),
        **changes,
    )


def run(running: Engine, specs: Sequence[PictureSpec] = ()) -> list[Outcome]:
    """Submit, step until idle, outcomes in the order of their index."""
    running.submit(*specs)
    outcomes = []
    while not running.is_idle:
        outcomes += [event for event in running.step() if isinstance(event, Outcome)]
    return sorted(outcomes, key=lambda outcome: outcome.spec.index)


@dataclass(frozen=True)
class RecordingModel(EngineModel):
    """A model that keeps the latents it decodes, in order."""

    decoded: list[Tensor] = field(default_factory=list)

    def decode(self, latents: Tensor) -> Tensor:
        """As the model does."""
        self.decoded.extend(latents)
        return super().decode(latents)


def recording(parts: EngineModel) -> RecordingModel:
    """The same parts, recorded."""
    return RecordingModel(**{f.name: getattr(parts, f.name) for f in fields(EngineModel)})


def final_latents(
    model: models.LoadedModel, specs: Sequence[PictureSpec], limits: EngineLimits | None = None
) -> list[Tensor]:
    """The latents each picture ends with, (4, h, w), in the order of the specs' index."""
    recorder = recording(model.parts)
    running = engine(model, limits, recorder)
    running.submit(*specs)
    order = []
    while not running.is_idle:
        for event in running.step():
            if isinstance(event, Outcome):
                assert event.failure is None, event.failure
                order.append(event.spec.index)
    return [latents for _, latents in sorted(zip(order, recorder.decoded, strict=True), key=lambda pair: pair[0])]
