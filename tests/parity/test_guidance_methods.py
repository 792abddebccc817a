"""SLD and SEGA against diffusers' pipelines on latents, in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    SemanticStableDiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionPipelineSafe,
)
from torch import Tensor

from contract.sld import PRESETS
from contract.steering import Sega, SegaConcept, Sld
from tests import engines
from workers.engine.engine import Engine
from workers.models import LoadedModel
from workers.safety.negative import NegativePrompt
from workers.safety.protocol import Conditioning, Guidance, RowSafety
from workers.safety.sega import SemanticGuidance
from workers.safety.sld import SafeLatentDiffusion

# diffusers' own calls of its own deprecated parts
pytestmark = pytest.mark.filterwarnings("ignore:The (decode_latents|.*callback).*:FutureWarning")

CONCEPTS = "an image showing violence, nudity"


def parts_of(folder: Path) -> dict[str, Any]:
    pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float64, low_cpu_mem_usage=False)
    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    return pipeline.components | {"scheduler": scheduler, "safety_checker": None, "requires_safety_checker": False}


def noise(seed: int) -> Tensor:
    return torch.randn((1, 4, 16, 16), generator=torch.Generator("cpu").manual_seed(seed)).double()


def latents_of(model: LoadedModel, build: Any, *, rows: int | None = None, **spec: Any) -> Tensor:
    """The latents that a guidance comes to; `rows`: UNet rows that it should have taken."""

    def build_safety(_: object, conditioning: Conditioning) -> RowSafety:
        guidance: Guidance = build(conditioning)
        return RowSafety(guidance)

    recorder = engines.recording(model.parts)
    [outcome] = engines.run(Engine(recorder, build_safety), [engines.spec(0, **spec)])
    assert outcome.failure is None, outcome.failure
    assert rows in (None, outcome.unet_rows)
    [latents] = recorder.decoded
    return latents


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize(("seed", "steps", "scale"), [(0, 20, 7.5), (1, 17, 3.0), (2, 30, 12.0)])
def test_sld_equals_diffusers(
    tiny_folder: Path, tiny_model: LoadedModel, preset: str, seed: int, steps: int, scale: float
) -> None:
    parameters = PRESETS[preset]
    pipeline = StableDiffusionPipelineSafe(**parts_of(tiny_folder))
    pipeline.safety_concept = CONCEPTS
    pipeline.set_progress_bar_config(disable=True)
    expected = _latents_before_decoding(
        pipeline,
        prompt="a cat",
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=noise(seed),
        sld_guidance_scale=parameters.scale,
        sld_warmup_steps=parameters.warmup_steps,
        sld_threshold=parameters.threshold,
        sld_momentum_scale=parameters.momentum_scale,
        sld_mom_beta=parameters.momentum_beta,
    )
    sld = lambda conditioning: SafeLatentDiffusion(conditioning, parameters, CONCEPTS)  # noqa: E731
    spared = parameters.warmup_steps if parameters.momentum_scale == 0 else 0
    latents = latents_of(tiny_model, sld, rows=3 * steps - spared, seed=seed, steps=steps, guidance_scale=scale)
    assert (latents - expected).abs().max() <= 1e-9
    plain = engines.final_latents(tiny_model, [engines.spec(0, seed=seed, steps=steps, guidance_scale=scale)])[0]
    assert (latents - plain).abs().max() > 1e-4


def _latents_before_decoding(pipeline: Any, **call: Any) -> Tensor:
    """The pipeline offers no latent output; its last callback tells them."""
    seen: list[Tensor] = []
    pipeline(**call, callback=lambda step, timestep, latents: seen.append(latents.clone()), output_type="np")
    return seen[-1][0]


SEGA_CASES = {
    "one removed": Sega(method="sega", concepts=(SegaConcept(text="violence"),)),
    "one added, no warm-up": Sega(
        method="sega", concepts=(SegaConcept(text="a hat", direction="add", warmup_steps=0, scale=8.0),)
    ),
    "three, staggered": Sega(
        method="sega",
        concepts=(
            SegaConcept(text="violence", warmup_steps=2, threshold=0.8),
            SegaConcept(text="a hat", direction="add", warmup_steps=6, scale=3.0, cooldown_step=12),
            SegaConcept(text="nudity", warmup_steps=9, scale=7.0),
        ),
        momentum_scale=0.4,
        momentum_beta=0.6,
    ),
    "three, staggered, no momentum": Sega(
        method="sega",
        concepts=(
            SegaConcept(text="violence", warmup_steps=2, threshold=0.8),
            SegaConcept(text="a hat", direction="add", warmup_steps=6, scale=3.0, cooldown_step=12),
            SegaConcept(text="nudity", warmup_steps=9, scale=7.0),
        ),
        momentum_scale=0.0,
    ),
}


@pytest.mark.parametrize("case", list(SEGA_CASES))
@pytest.mark.parametrize(("seed", "steps", "scale"), [(0, 16, 7.5), (3, 21, 3.0)])
def test_sega_equals_diffusers(
    tiny_folder: Path, tiny_model: LoadedModel, case: str, seed: int, steps: int, scale: float
) -> None:
    plan = SEGA_CASES[case]
    concepts = plan.concepts
    parts = parts_of(tiny_folder)
    del parts["image_encoder"]
    pipeline = SemanticStableDiffusionPipeline(**parts)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompt="a cat",
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=noise(seed),
        editing_prompt=[concept.text for concept in concepts],
        reverse_editing_direction=[concept.direction == "remove" for concept in concepts],
        edit_guidance_scale=[concept.scale for concept in concepts],
        edit_warmup_steps=[concept.warmup_steps for concept in concepts],
        edit_cooldown_steps=[concept.cooldown_step or steps + 1 for concept in concepts],
        edit_threshold=[concept.threshold for concept in concepts],
        edit_momentum_scale=plan.momentum_scale,
        edit_mom_beta=plan.momentum_beta,
        output_type="latent",
    ).images[0]
    sega = lambda conditioning: SemanticGuidance(  # noqa: E731
        conditioning, concepts, plan.momentum_scale, plan.momentum_beta
    )
    acting = [
        min(concept.cooldown_step or steps, steps) - (0 if plan.momentum_scale else concept.warmup_steps)
        for concept in concepts
    ]
    rows = 2 * steps + sum(acting)
    latents = latents_of(tiny_model, sega, rows=rows, seed=seed, steps=steps, guidance_scale=scale)
    assert (latents - expected).abs().max() <= 1e-9


def test_negative_equals_diffusers_with_the_texts_joined(tiny_folder: Path, tiny_model: LoadedModel) -> None:
    pipeline = StableDiffusionPipeline(**parts_of(tiny_folder))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        "a cat",
        negative_prompt="a tree, violence, nudity",
        num_inference_steps=11,
        guidance_scale=5.0,
        latents=noise(4),
        output_type="latent",
    ).images[0]
    negative = lambda conditioning: NegativePrompt(conditioning, "violence, nudity")  # noqa: E731
    latents = latents_of(tiny_model, negative, seed=4, steps=11, guidance_scale=5.0, negative_prompt="a tree")
    assert (latents - expected).abs().max() <= 1e-9


def test_a_parameter_of_the_plan_replaces_the_presets() -> None:
    parameters = Sld(method="sld", preset="max", scale=100.0).parameters
    assert parameters == PRESETS["max"].model_copy(update={"scale": 100.0})


def test_the_record_tells_when_the_push_set_in(tiny_model: LoadedModel) -> None:
    built: list[SafeLatentDiffusion] = []

    def sld(conditioning: Conditioning) -> SafeLatentDiffusion:
        built.append(SafeLatentDiffusion(conditioning, PRESETS["strong"], CONCEPTS))
        return built[-1]

    latents_of(tiny_model, sld, seed=0, steps=10)
    record = built[0].record()
    assert record.push[:7] == (0.0,) * 7
    assert all(strength is not None and strength > 0 for strength in record.push[7:])
    assert all(share is not None and 0 < share <= 1 for share in record.share[7:])


def test_the_record_of_sega_tells_the_share_over_the_threshold_not_what_the_momentum_touches() -> None:
    conditioning = Conditioning("a cat", "", 7.5, 30)
    concepts = (SegaConcept(text="gore", threshold=0.9, warmup_steps=2, cooldown_step=20),)
    sega = SemanticGuidance(conditioning, concepts, momentum_scale=0.5, momentum_beta=0.4)
    torch.manual_seed(0)
    for step in range(22):
        sega.combine(torch.randn(len(sega.branches(step)), 4, 16, 16, dtype=torch.float64), step)
    record = sega.record()
    assert record.share[:2] == (0.0, 0.0)
    assert all(share == pytest.approx(0.1, abs=0.01) for share in record.share[2:20])
    assert record.share[20:] == (0.0, 0.0)
    assert all(push is not None and push > 0 for push in record.push[20:])  # the momentum goes on alone


def test_a_push_that_is_not_finite_is_recorded_as_null() -> None:
    sld = SafeLatentDiffusion(Conditioning("a cat", "", 7.5, 30), PRESETS["max"], CONCEPTS)
    sld.combine(torch.full((3, 4, 16, 16), torch.nan), 0)
    assert sld.record().push == (None,)
