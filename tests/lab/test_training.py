"""Training: a stopped run, taken up again, ends with the weights of one that was never stopped."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lab.world import judge as judging
from lab.world.clip import train_clip
from lab.world.judge import Judge, train_judge
from lab.world.objects import OBJECTS
from lab.world.scenes import random_pictures
from lab.world.tokenizer import build_tokenizer
from lab.world.training import CPU, GPU, Budget, Recipe, fit, history
from lab.world.unet import build_scheduler, step_weights, train_unet
from lab.world.vae import build_vae, latents_of, pixels_of, standardise, train_vae

TINY = Recipe(steps=6, batch=4, learning_rate=1e-3, warmup_steps=2)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def tiny(budget: Budget) -> Budget:
    small = replace(budget, device="cpu", pictures=24, compile_vae=False)
    return replace(small, clip=TINY, vae=TINY, judge=TINY, unet=TINY)


class Stopped(Exception):
    """Stands for the kill."""


def regression(stop_at: int | None = None) -> tuple[nn.Module, Callable[[int], Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))

    def loss_at(step: int) -> Tensor:
        if step == stop_at:
            raise Stopped
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (net(inputs) - inputs.sum(1, keepdim=True)).square().mean()

    return net, loss_at


def weights(module: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in module.parameters()]


def same(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize("stop_at", [1, 60, 119])
def test_a_stopped_run_resumes_exactly(tmp_path: Path, stop_at: int) -> None:
    recipe = replace(TINY, steps=120)
    whole, loss_at = regression()
    fit(whole, loss_at, recipe, tmp_path / "whole", checkpoint_every_s=0)
    stopped, loss_at = regression(stop_at)
    with pytest.raises(Stopped):
        fit(stopped, loss_at, recipe, tmp_path / "stopped", checkpoint_every_s=0)
    resumed, loss_at = regression()
    fit(resumed, loss_at, recipe, tmp_path / "stopped", checkpoint_every_s=0)
    assert same(whole, resumed)
    assert [line["step"] for line in history(tmp_path / "stopped")] == [50, 100, 120]


def test_checkpoints_between_which_a_run_is_killed_cost_only_time(tmp_path: Path) -> None:
    """The checkpoint is older than the kill: the steps in between are made again, to the same weights."""
    recipe = replace(TINY, steps=40)
    whole, loss_at = regression()
    fit(whole, loss_at, recipe, tmp_path / "whole")
    first, loss_at = regression(stop_at=20)
    with pytest.raises(Stopped):
        fit(first, loss_at, recipe, tmp_path / "stopped", checkpoint_every_s=0)
    second, loss_at = regression(stop_at=30)
    with pytest.raises(Stopped):
        fit(second, loss_at, recipe, tmp_path / "stopped", checkpoint_every_s=3600)
    third, loss_at = regression()
    fit(third, loss_at, recipe, tmp_path / "stopped")
    assert same(whole, third)


def test_a_finished_run_is_not_trained_further(tmp_path: Path) -> None:
    first = train_judge(tiny(CPU), 3, tmp_path / "judge")
    assert same(first, train_judge(tiny(CPU), 3, tmp_path / "judge"))
    assert [line["step"] for line in history(tmp_path / "judge")] == [TINY.steps]


@pytest.mark.parametrize("full", [CPU, GPU], ids=lambda budget: budget.name)
def test_every_part_trains_and_depends_on_its_seed_alone(tmp_path: Path, full: Budget) -> None:
    """The GPU's budget as well: 128 px, an autoencoder by eight, bfloat16; only its device is exchanged."""
    budget, tokenizer = tiny(full), build_tokenizer()
    clips = [train_clip(tokenizer, budget, seed, tmp_path / f"clip{run}").clip for run, seed in enumerate((1, 1, 2))]
    assert same(clips[0], clips[1])
    assert not same(clips[0], clips[2])
    vaes = [train_vae(budget, 1, tmp_path / f"vae{run}") for run in range(2)]
    assert same(*vaes)
    unets = [
        train_unet(vaes[0], clips[0].text_model, tokenizer, budget, 1, tmp_path / f"unet{run}") for run in range(2)
    ]
    assert same(*unets)


def test_standardised_latents_have_mean_0_and_variance_1_and_decode_to_the_same_pictures() -> None:
    torch.manual_seed(0)
    vae = build_vae(CPU).requires_grad_(False)
    pictures, _ = random_pictures(4, 32)
    before = vae.decode(latents_of(vae, pictures)).sample
    spread = vae.encode(pixels_of(pictures)).latent_dist.std
    scale = latents_of(vae, pictures).std(dim=(0, 2, 3))
    standardise(vae, latents_of(vae, pictures))
    latents = latents_of(vae, pictures)
    assert latents.mean(dim=(0, 2, 3)).abs().max() < 1e-4
    assert (latents.std(dim=(0, 2, 3)) - 1).abs().max() < 1e-4
    assert torch.allclose(vae.decode(latents).sample, before, atol=1e-4)
    assert torch.allclose(vae.encode(pixels_of(pictures)).latent_dist.std * scale.view(1, -1, 1, 1), spread, rtol=1e-3)


def test_loss_weights_are_positive_and_average_1() -> None:
    weights = step_weights(build_scheduler().alphas_cumprod, 0.5)
    assert (weights > 0).all()
    assert weights.mean() == pytest.approx(1, abs=1e-5)


def test_a_saved_judge_judges_alike(tmp_path: Path) -> None:
    judge = Judge().half().float()
    judging.save(judge, tmp_path)
    pictures, _ = random_pictures(6, 5)
    probabilities = judging.load(tmp_path).probabilities(pictures)
    assert probabilities.shape == (5, len(OBJECTS))
    assert torch.equal(probabilities, judge.probabilities(pictures))
