"""From a recipe to a variant on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from contract.recipe import Esd, Recipe, Sdd
from contract.request import Scheduler
from lab.erasure import esd, sdd, uce
from lab.erasure.networks import Networks
from lab.erasure.original import Original
from lab.erasure.previews import Previews
from lab.erasure.recipes import hyperparameters, trained_by
from lab.erasure.training import Training, Watch
from workers.engine.schedule import build_schedule
from workers.variants.card import VariantCard
from workers.variants.writing import write_variant


@dataclass(frozen=True)
class Keeping:
    """What is kept beside the variant, where, and when."""

    work: Path  # checkpoint, log, previews
    checkpoint_every: int = 100  # iterations
    preview_every: int = 500  # iterations; 0: never
    limit_s: float | None = None  # of this run; the next goes on from its checkpoint
    dtype: torch.dtype = torch.float16  # in which the variant is stored


def erase(
    original: Original,
    recipe: Recipe,
    out: Path,
    keeping: Keeping,
    console: Console,
    watch: Watch | None = None,
    **told: Any,
) -> VariantCard | None:
    """Make the variant `out`; None when `limit_s` or `watch` ended a training that is to go on.

    told: further fields of the card

    Raises:
        UnusableConcept: a text is longer than the model reads.
        OtherTraining: `keeping.work` holds another one.
        Diverged: the loss is not finite.
        ValueError: nothing changed, or a value does not fit `keeping.dtype`.
    """
    if isinstance(recipe, Esd | Sdd):
        training = _train(original, recipe, keeping, console, watch)
        if not training.is_done:
            return None
        tensors, before, seen = training.erased, training.networks.original, _seen(training)
    else:
        tensors, before, seen = uce.erase(original, recipe), original.unet.state_dict(), {}
    return write_variant(
        out,
        tensors,
        before,
        keeping.dtype,
        method=recipe.method,
        concepts=recipe.concepts,
        preserved=() if isinstance(recipe, Esd | Sdd) else recipe.preserved,
        base=original.base,
        hyperparameters=hyperparameters(recipe),
        training=seen,
        **told,
    )


def _train(original: Original, recipe: Esd | Sdd, keeping: Keeping, console: Console, watch: Watch | None) -> Training:
    networks = Networks(original.unet, trained_by(recipe))
    if recipe.gradient_checkpointing:
        original.unet.enable_gradient_checkpointing()
    schedule = build_schedule(Scheduler.DDIM, recipe.sampling_steps, original.scheduler_config)
    if isinstance(recipe, Esd):
        course, now = esd.course(original, networks, recipe, schedule), networks.student
    else:
        course, now = sdd.course(original, networks, recipe, schedule), networks.teacher
    training = Training(course, networks, recipe, original.base.weights_sha256, original.unet.device, keeping.work)
    previews = Previews(original, recipe.concepts)

    def preview(iteration: int) -> None:
        previews.draw(networks.frozen, now, keeping.work / "previews" / f"{iteration:06d}.png")

    training.run(console, keeping.checkpoint_every, keeping.limit_s, keeping.preview_every or None, preview, watch)
    return training


def _seen(training: Training) -> dict[str, Any]:
    ends = training.losses()
    told = {"first_loss": ends[0]["loss"], "last_loss": ends[-1]["loss"]} if ends else {}
    losses = {name: float(f"{loss:.4g}") for name, loss in told.items()}
    return {"seconds": round(training.elapsed_s, 1), "device": training.device.type, **losses}
