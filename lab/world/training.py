"""The one training loop: seeded by step, averaged weights, checkpoints that resume exactly, a log of losses."""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from torch import Tensor, nn

CHECKPOINT_EVERY_S: Final = 150.0
LOG_EVERY: Final = 50  # steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast one part learns: a constant rate for `constant_share` of the steps, then a cosine."""

    steps: int
    batch: int
    learning_rate: float
    constant_share: float = 0.0
    warmup_steps: int = 100
    average_decay: float = 0.998
    weight_decay: float = 0.01
    threads: int = 1

    def rate_at(self, step: int) -> float:
        """The learning rate of `step`, from 0."""
        warm = min(1.0, (step + 1) / self.warmup_steps)
        held = self.constant_share * self.steps
        fallen = max(0.0, step - held) / max(1.0, self.steps - held)
        return self.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(fallen, 1.0)))


@dataclass(frozen=True, slots=True)
class Budget:
    """What a machine can afford. The latents are 16x16x4 in both, so that the UNet's cost when served is the same."""

    name: str
    device: str
    mixed_precision: bool  # bfloat16 for the UNet and the judge; CLIP always uses it
    size_px: int
    pictures: int
    vae_channels: tuple[int, ...]
    vae_crop_px: int
    compile_vae: bool
    clip: Recipe
    vae: Recipe
    judge: Recipe
    unet: Recipe


CPU: Final = Budget(
    name="cpu",
    device="cpu",
    mixed_precision=False,
    size_px=64,
    pictures=20_000,
    vae_channels=(16, 32, 96),
    vae_crop_px=32,
    compile_vae=True,
    clip=Recipe(steps=3000, batch=96, learning_rate=1.2e-3),
    vae=Recipe(steps=9000, batch=12, learning_rate=2e-3),
    judge=Recipe(steps=1000, batch=64, learning_rate=2e-3),
    unet=Recipe(steps=6400, batch=32, learning_rate=1e-3, constant_share=0.5, threads=2),
)
GPU: Final = Budget(
    name="gpu",
    device="cuda",
    mixed_precision=True,
    size_px=128,
    pictures=200_000,
    vae_channels=(16, 32, 64, 96),
    vae_crop_px=64,
    compile_vae=True,
    clip=Recipe(steps=4000, batch=2048, learning_rate=1.2e-3),
    vae=Recipe(steps=12_000, batch=64, learning_rate=2e-3),
    judge=Recipe(steps=3000, batch=256, learning_rate=2e-3),
    unet=Recipe(steps=20_000, batch=512, learning_rate=1e-3, constant_share=0.5),
)
BUDGETS: Final = {budget.name: budget for budget in (CPU, GPU)}


def step_seed(seed: int, step: int) -> int:
    """The seed of one step: all that is random in it follows from this, so resuming needs no generator state."""
    return seed * 1_000_003 + step


class Average:
    """An exponential moving average of a module's parameters, shorter at the start."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = [parameter.detach().clone() for parameter in module.parameters()]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move towards the parameters after `step`, from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in module.parameters()], 1 - decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Put the average in the place of the parameters."""
        for parameter, value in zip(module.parameters(), self.values, strict=True):
            parameter.copy_(value)


def fit(
    module: nn.Module,
    loss_at: Callable[[int], Tensor],
    recipe: Recipe,
    folder: Path,
    checkpoint_every_s: float = CHECKPOINT_EVERY_S,
) -> nn.Module:
    """Train `module` on `loss_at(step)` and leave the averaged weights in it.

    `loss_at` must depend on nothing but the module and the step. `folder` gets `checkpoint.pt` and `log.jsonl`; when
    a checkpoint lies there, training goes on from it and ends with the same weights as a run that was never stopped.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    average = Average(module, recipe.average_decay)
    step, elapsed_s = _resume(module, optimizer, average, folder)
    console, started, saved = Console(), time.monotonic() - elapsed_s, time.monotonic()
    first, began = step, time.monotonic()
    losses: list[float] = []
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate_at(step)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        average.update(module, step)
        losses.append(loss.item())
        step += 1
        now = time.monotonic()
        if step % LOG_EVERY == 0 or step == recipe.steps:
            pace = (step - first) / (now - began)
            mean = sum(losses) / len(losses)
            losses.clear()
            _log(folder, {"step": step, "loss": round(mean, 5), "elapsed_s": round(now - started, 1)})
            console.print(
                f"{folder.name} {step}/{recipe.steps}  loss {mean:.4f}  {pace:.2f} steps/s  "
                f"{(recipe.steps - step) / pace / 60:.1f} min left"
            )
        if now - saved >= checkpoint_every_s or step == recipe.steps:
            _save(module, optimizer, average, folder, step, now - started)
            saved = now
    average.copy_to(module)
    return module


def history(folder: Path) -> list[dict[str, float]]:
    """The logged losses of a part, oldest first; of lines written twice around a resume the later counts."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return sorted({line["step"]: line for line in lines}.values(), key=lambda line: line["step"])


def _read(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True)
    return state


def _resume(module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, folder: Path) -> tuple[int, float]:
    if not (folder / "checkpoint.pt").exists():
        return 0, 0.0
    state = _read(folder)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    for value, saved in zip(average.values, state["average"], strict=True):
        value.copy_(saved)
    return int(state["step"]), float(state["elapsed_s"])


def _save(
    module: nn.Module, optimizer: torch.optim.Optimizer, average: Average, folder: Path, step: int, elapsed_s: float
) -> None:
    state = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "average": average.values,
        "step": step,
        "elapsed_s": elapsed_s,
    }
    torch.save(state, folder / "checkpoint.part")
    os.replace(folder / "checkpoint.part", folder / "checkpoint.pt")


def _log(folder: Path, line: dict[str, float]) -> None:
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps(line) + "\n")
