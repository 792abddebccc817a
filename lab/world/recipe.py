"""The whole training in one call: CLIP beside the autoencoder and the judge, then the UNet, then the model folder."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPModel

from lab.world.assembly import Parts, write_model
from lab.world.card import write_training
from lab.world.clip import train_clip
from lab.world.judge import Judge, train_judge
from lab.world.tokenizer import build_tokenizer
from lab.world.training import Budget, Recipe
from lab.world.unet import train_unet
from lab.world.vae import train_vae

GUIDANCE_SCALE: Final = 3.0


def trained_clip(budget: Budget, seed: int, work: Path) -> CLIPModel:
    """CLIP, trained or taken up where its checkpoint in `work` left off, then frozen. So are the other parts."""
    _use_threads(budget, budget.clip)
    return train_clip(build_tokenizer(), budget, 10 * seed + 1, work / "clip").clip.eval().requires_grad_(False)


def trained_vae(budget: Budget, seed: int, work: Path) -> AutoencoderKL:
    """The autoencoder."""
    _use_threads(budget, budget.vae)
    return train_vae(budget, 10 * seed + 2, work / "vae").eval().requires_grad_(False)


def trained_judge(budget: Budget, seed: int, work: Path) -> Judge:
    """The judge, on pictures no other part was trained on."""
    _use_threads(budget, budget.judge)
    return train_judge(budget, 10 * seed + 3, work / "judge").eval().requires_grad_(False)


def trained_unet(budget: Budget, seed: int, work: Path) -> UNet2DConditionModel:
    """The UNet; it needs CLIP and the autoencoder and trains them first where they are not finished."""
    clip, vae = trained_clip(budget, seed, work), trained_vae(budget, seed, work)
    _use_threads(budget, budget.unet)
    return train_unet(vae, clip.text_model, build_tokenizer(), budget, 10 * seed + 4, work / "unet")


Lane = tuple[Callable[[Budget, int, Path], torch.nn.Module], ...]
LANES: Final[tuple[Lane, ...]] = ((trained_clip,), (trained_vae, trained_judge))


def train_all(budget: Budget, seed: int, work: Path, out: Path) -> None:
    """Train every part, resuming what was begun in `work`, and write the model to `out`."""
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run_lane, args=(lane, budget, seed, work)) for lane in LANES]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"a training process ended with {process.exitcode}; run the command again to resume")
    write_trained(trained_unet(budget, seed, work), budget, seed, work, out)


def write_trained(unet: UNet2DConditionModel, budget: Budget, seed: int, work: Path, out: Path) -> None:
    """Write the model of a UNet and the finished parts in `work`."""
    clip, vae, judge = (train(budget, seed, work).cpu() for train in (trained_clip, trained_vae, trained_judge))
    write_model(Parts(build_tokenizer(), clip, vae, unet.cpu(), judge, budget.size_px), out, GUIDANCE_SCALE)
    write_training(out, budget, seed, work)


def _run_lane(lane: Lane, budget: Budget, seed: int, work: Path) -> None:
    for train in lane:
        train(budget, seed, work)


def _use_threads(budget: Budget, recipe: Recipe) -> None:
    if budget.device == "cpu":
        torch.set_num_threads(recipe.threads)
