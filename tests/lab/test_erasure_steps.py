"""One step of ESD and one of SDD against the papers' formulas written out in a straight line, in float64."""

import copy
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from contract.recipe import Esd, Sdd
from contract.request import Scheduler
from lab.erasure import esd, sdd
from lab.erasure.networks import Networks
from lab.erasure.original import Original
from lab.erasure.recipes import trained_by
from lab.erasure.training import Course, randomness
from tests.originals import tiny_original
from workers.engine.schedule import build_schedule

STEPS = 10
ITERATIONS = (0, 3, 7)


def stirred(tensors: list[Tensor], seed: int) -> None:
    """Move weights, so that student, teacher and original are three different networks."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def with_weights(original: Original, weights: dict[str, Tensor]) -> UNet2DConditionModel:
    """A UNet of its own with these weights in place of the model's."""
    unet = copy.deepcopy(original.unet)
    unet.load_state_dict({**unet.state_dict(), **weights})
    return unet


def sampled(unet: UNet2DConditionModel, original: Original, noise: Tensor, text: str, until: int) -> tuple[Tensor, int]:
    """x_t and t: DDIM (Song et al. 2020, eq. 12, η = 0) with guidance 3, stopped before step `until`."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float32) ** 2
    alphas = torch.cumprod(1 - betas, 0).double()
    stride = 1000 // STEPS
    timesteps = [i * stride + 1 for i in reversed(range(STEPS))]
    x = noise
    empty, concept = (original.encode(words).expand(len(x), -1, -1) for words in ("", text))
    for t in timesteps[:until]:
        with torch.no_grad():
            unconditioned = unet(x, t, empty).sample
            noise_predicted = unconditioned + 3 * (unet(x, t, concept).sample - unconditioned)
        clean = (x - (1 - alphas[t]).sqrt() * noise_predicted) / alphas[t].sqrt()
        following = alphas[t - stride] if t >= stride else alphas[0]
        x = following.sqrt() * clean + (1 - following).sqrt() * noise_predicted
    return x, timesteps[until]


def gradients(unet: UNet2DConditionModel, names: list[str], loss: Tensor) -> dict[str, Tensor]:
    parameters = dict(unet.named_parameters())
    return dict(zip(names, torch.autograd.grad(loss, [parameters[name] for name in names]), strict=True))


def prepared(recipe: Esd | Sdd) -> tuple[Original, Networks, Course, dict[str, UNet2DConditionModel]]:
    """The course under test, and a UNet of its own for each of the three roles."""
    original = tiny_original()
    networks = Networks(original.unet, trained_by(recipe))
    stirred(list(networks.average.values()), 1)
    stirred(list(networks.trained.values()), 2)
    schedule = build_schedule(Scheduler.DDIM, STEPS, original.scheduler_config)
    module: Any = esd if isinstance(recipe, Esd) else sdd
    roles = {
        "student": with_weights(original, {name: value.detach() for name, value in networks.trained.items()}),
        "teacher": with_weights(original, networks.average),
        "frozen": with_weights(original, networks.original),
    }
    return original, networks, module.course(original, networks, recipe, schedule), roles


def assert_equal(course: Course, networks: Networks, iteration: int, loss: Tensor, wanted: dict[str, Tensor]) -> None:
    found = course.loss_at(iteration)
    torch.testing.assert_close(found, loss, rtol=1e-10, atol=0)
    found.backward()  # type: ignore[no-untyped-call]
    for name, gradient in wanted.items():
        torch.testing.assert_close(networks.trained[name].grad, gradient, rtol=1e-7, atol=1e-12)
    assert set(wanted) == set(networks.trained)


@pytest.mark.parametrize("iteration", ITERATIONS)
@pytest.mark.parametrize("method", ["esd-x", "esd-x-strict", "esd-u"])
def test_a_step_of_esd_is_the_papers(method: Any, iteration: int) -> None:
    recipe = Esd(method=method, concepts=("a knife", "blood"), sampling_steps=STEPS, erase_scale=1.5, batch=2)
    original, networks, course, roles = prepared(recipe)
    drawn = randomness(original, recipe, iteration)
    concept = recipe.concepts[drawn.choice % 2]
    c, empty = original.encode(concept).expand(2, -1, -1), original.encode("").expand(2, -1, -1)
    x, t = sampled(roles["student"], original, drawn.noise, concept, drawn.until)
    with torch.no_grad():
        unconditioned, conditioned = roles["frozen"](x, t, empty).sample, roles["frozen"](x, t, c).sample
    target = unconditioned - 1.5 * (conditioned - unconditioned)
    student = roles["student"].requires_grad_(True)
    loss = (student(x, t, c).sample - target).square().mean()
    assert_equal(course, networks, iteration, loss, gradients(student, list(networks.trained), loss))


@pytest.mark.parametrize("iteration", ITERATIONS)
@pytest.mark.parametrize("kv_only", [False, True])
def test_a_step_of_sdd_is_the_papers(kv_only: bool, iteration: int) -> None:
    recipe = Sdd(concepts=("a knife", "blood"), sampling_steps=STEPS, kv_only=kv_only)
    original, networks, course, roles = prepared(recipe)
    drawn = randomness(original, recipe, iteration)
    x, t = sampled(roles["teacher"], original, drawn.noise, recipe.concepts[iteration % 2], drawn.until)
    with torch.no_grad():
        target = roles["student"](x, t, original.encode("")).sample
    student = roles["student"].requires_grad_(True)
    loss = (target - student(x, t, original.encode("a knife, blood")).sample).square().mean()
    assert_equal(course, networks, iteration, loss, gradients(student, list(networks.trained), loss))


def test_every_step_can_be_drawn_the_first_and_the_last_too() -> None:
    original, recipe = tiny_original(), Sdd(concepts=("blood",), sampling_steps=4)
    assert {randomness(original, recipe, iteration).until for iteration in range(60)} == {0, 1, 2, 3}


def test_sdd_warms_up_and_falls_as_a_cosine() -> None:
    recipe = Sdd(concepts=("blood",), iterations=1500, warmup_iterations=500)
    shares = [sdd.warm_cosine(iteration, recipe) for iteration in (0, 250, 500, 1000, 1500)]
    assert shares == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_the_teacher_is_the_moving_average() -> None:
    original = tiny_original()
    networks = Networks(original.unet, trained_by(Sdd(concepts=("blood",))))
    stirred(list(networks.trained.values()), 2)
    networks.update_average(0.999)
    for name, parameter in networks.trained.items():
        wanted = 0.999 * networks.original[name] + 0.001 * parameter.detach()
        torch.testing.assert_close(networks.average[name], wanted, rtol=1e-12, atol=1e-15)
