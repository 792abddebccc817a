"""The engine's pictures against diffusers' own StableDiffusionPipeline: same seed, steps, sampler."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
)
from torch import Tensor

from contract.request import Scheduler
from tests import engines, tiny
from workers.models import LoadedModel

DEMO = Path(__file__).parents[2] / "models" / "demo"
CLASSES = {
    Scheduler.DDIM: DDIMScheduler,
    Scheduler.EULER: EulerDiscreteScheduler,
    Scheduler.DPMPP_2M: DPMSolverMultistepScheduler,
}
# diffusers takes the step of these two samplers in float32 even when the model runs in float64.
TOLERANCES = {Scheduler.DDIM: 1e-9, Scheduler.EULER: 2e-5, Scheduler.DPMPP_2M: 2e-5}


def reference_latents(
    pipeline: StableDiffusionPipeline, scheduler: Scheduler, *, seed: int, steps: int, scale: float, **call: object
) -> Tensor:
    """What diffusers ends with from the noise the engine starts from, (4, h, w)."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = CLASSES[scheduler].from_config(pipeline.scheduler.config)
    pipeline.scheduler.alphas_cumprod = pipeline.scheduler.alphas_cumprod.double()
    if scheduler is Scheduler.DDIM:
        pipeline.scheduler.final_alpha_cumprod = pipeline.scheduler.final_alpha_cumprod.double()
    channels, size = pipeline.unet.config.in_channels, pipeline.unet.config.sample_size
    noise = torch.randn((1, channels, size, size), generator=torch.Generator("cpu").manual_seed(seed))
    call = {"prompt": "a cat", "num_inference_steps": steps, "guidance_scale": scale} | call
    return pipeline(latents=noise.to(pipeline.unet.dtype), output_type="latent", **call).images[0]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("scheduler", list(Scheduler))
@pytest.mark.parametrize(("seed", "steps", "scale"), [(0, 1, 7.5), (1, 6, 3.0), (2, 20, 1.0), (3, 17, 12.0)])
def test_latents_equal_diffusers_in_float64(
    tmp_path_factory: pytest.TempPathFactory,
    prediction_type: str,
    scheduler: Scheduler,
    seed: int,
    steps: int,
    scale: float,
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"parity-{prediction_type}"
    if not folder.exists():
        tiny.save(folder, prediction_type)
    model = engines.load(folder, torch.float64)
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float64, low_cpu_mem_usage=False)
    expected = reference_latents(pipeline, scheduler, seed=seed, steps=steps, scale=scale)
    wanted = engines.spec(0, seed=seed, steps=steps, guidance_scale=scale, scheduler=scheduler)
    [latents] = engines.final_latents(model, [wanted])
    scale_of_values = expected.abs().max()
    assert (latents - expected).abs().max() <= TOLERANCES[scheduler] * scale_of_values


def test_negative_prompt_equals_diffusers(tiny_folder: Path, tiny_model: LoadedModel) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, dtype=torch.float64, low_cpu_mem_usage=False)
    expected = reference_latents(pipeline, Scheduler.DDIM, seed=5, steps=8, scale=5.0, negative_prompt="a dog")
    wanted = engines.spec(0, seed=5, steps=8, guidance_scale=5.0, negative_prompt="a dog")
    [latents] = engines.final_latents(tiny_model, [wanted])
    assert (latents - expected).abs().max() <= 1e-9
    [other] = engines.final_latents(tiny_model, [engines.spec(0, seed=5, steps=8, guidance_scale=5.0)])
    assert (latents - other).abs().max() > 1e-4


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_demo_pictures_equal_diffusers_in_float32(scheduler: Scheduler) -> None:
    model = engines.load(DEMO, torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(DEMO, low_cpu_mem_usage=False, local_files_only=True)
    expected = reference_latents(pipeline, scheduler, seed=11, steps=20, scale=4.0)
    wanted = engines.spec(0, seed=11, steps=20, guidance_scale=4.0, scheduler=scheduler, width=64, height=64)
    [latents] = engines.final_latents(model, [wanted])
    with torch.inference_mode():
        picture = model.parts.decode(latents[None])
        reference = pipeline.vae.decode(expected[None] / pipeline.vae.config.scaling_factor).sample
    assert (latents - expected).abs().max() <= 1e-4
    assert (picture - reference).abs().max() <= 2e-4  # of a range of 2: 1e-4 of the picture's


def test_seeds_draw_what_diffusers_draws(tiny_folder: Path) -> None:
    """The same seed in diffusers' usual call (float32, a CPU generator) gives the same picture."""
    model = engines.load(tiny_folder, torch.float32)
    pipeline = StableDiffusionPipeline.from_pretrained(tiny_folder, low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(3)
    called = pipeline("a cat", num_inference_steps=6, generator=generator, output_type="np", guidance_scale=7.5)
    [outcome] = engines.run(engines.engine(model), [engines.spec(0, seed=3, steps=6)])
    assert outcome.pixels is not None
    assert np.abs(outcome.pixels - (called.images[0] * 255).round()).max() <= 1
