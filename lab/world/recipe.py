"""The whole training in one call: CLIP beside the autoencoder and the judge, then the UNet, then the model folder."""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPModel

from lab.world.assembly import Parts, write_model
from lab.world.captions import world_fingerprint
from lab.world.card import WORLD, write_training
from lab.world.clip import train_clip
from lab.world.judge import Judge, train_judge
from lab.world.tokenizer import build_tokenizer
from lab.world.training import Budget, Recipe
from lab.world.unet import train_unet
from lab.world.vae import train_vae

GUIDANCE_SCALE: Final = 4.0
# Each part draws its own pictures: its seed is ten times the run's plus this.
SEED_OFFSETS: Final = {"clip": 1, "vae": 2, "judge": 3, "unet": 4}


def part_seed(seed: int, part: str) -> int:
    """The seed of a part's pictures and steps in the run `seed`."""
    return 10 * seed + SEED_OFFSETS[part]


def trained_clip(budget: Budget, seed: int, work: Path) -> CLIPModel:
    """CLIP, trained or taken up where its checkpoint in `work` left off, then frozen. So are the other parts."""
    folder = _begin(work / "clip", budget, budget.clip)
    return train_clip(build_tokenizer(), budget, part_seed(seed, "clip"), folder).clip.eval().requires_grad_(False)


def trained_vae(budget: Budget, seed: int, work: Path) -> AutoencoderKL:
    """The autoencoder."""
    folder = _begin(work / "vae", budget, budget.vae)
    return train_vae(budget, part_seed(seed, "vae"), folder).eval().requires_grad_(False)


def trained_judge(budget: Budget, seed: int, work: Path) -> Judge:
    """The judge, on pictures no other part was trained on."""
    folder = _begin(work / "judge", budget, budget.judge)
    return train_judge(budget, part_seed(seed, "judge"), folder).eval().requires_grad_(False)


def trained_unet(budget: Budget, seed: int, work: Path) -> UNet2DConditionModel:
    """The UNet; it needs CLIP and the autoencoder and trains them first where they are not finished."""
    clip, vae = trained_clip(budget, seed, work), trained_vae(budget, seed, work)
    folder = _begin(work / "unet", budget, budget.unet)
    return train_unet(vae, clip.text_model, build_tokenizer(), budget, part_seed(seed, "unet"), folder)


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


def _begin(folder: Path, budget: Budget, recipe: Recipe) -> Path:
    """Prepare a part's folder, which notes the world it is trained on, and the threads it may use."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / WORLD).exists():
        (folder / WORLD).write_text(world_fingerprint() + "\n")
    if budget.device == "cpu":
        torch.set_num_threads(recipe.threads)
    return folder
