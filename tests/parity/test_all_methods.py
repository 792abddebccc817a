"""All methods at all places: a mixed batch against solo runs, and unguidance against a straight-line program."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline
from torch import Tensor

from contract.plan import SafetyPlan
from tests import engines, tiny
from workers.engine.engine import Engine
from workers.models import LoadedModel

SLD: dict[str, Any] = {"method": "sld", "preset": "max", "concepts": ["harm", "blood"]}
SEGA: dict[str, Any] = {
    "method": "sega",
    "concepts": [
        {"text": "harm", "warmup_steps": 1},
        {"text": "a hat", "direction": "add", "warmup_steps": 3, "cooldown_step": 6},
    ],
}
NEGATIVE: dict[str, Any] = {"method": "negative", "concepts": ["harm"]}
SAFREE: dict[str, Any] = {"concepts": ["harm", "blood"]}
UNGUIDANCE: dict[str, Any] = {"preset": "filter", "threshold": -1.0, "strength": 0.5, "top_k": 3}
FILTER: dict[str, Any] = {"concepts": [{"name": "x", "text": "harm", "threshold": 0.9}]}

PLANS: list[dict[str, Any]] = [
    {},
    {"guidance": NEGATIVE},
    {"guidance": SLD},
    {"guidance": SEGA, "output": FILTER},
    {"trajectory": UNGUIDANCE},
    {"trajectory": UNGUIDANCE | {"concepts": ["harm"], "top_k": 1, "schedule": "linear", "end_step": 5}},
    {"prompt": SAFREE},
    {"prompt": SAFREE, "guidance": SLD, "trajectory": UNGUIDANCE, "output": FILTER},
    {"prompt": SAFREE, "guidance": NEGATIVE, "trajectory": UNGUIDANCE | {"threshold": 1.0}},
]


def specs() -> list[Any]:
    return [
        engines.spec(i, steps=6 + i % 3, seed=i, plan=SafetyPlan.model_validate(plan), prompt=f"a cat {i}")
        for i, plan in enumerate(PLANS)
    ]


def test_a_mixed_batch_of_all_methods_equals_solo_runs_in_float64(exact_model: LoadedModel) -> None:
    together = engines.final_latents(exact_model, specs())
    plain = engines.final_latents(exact_model, [replace(spec, plan=SafetyPlan()) for spec in specs()])
    for spec, latents, without in zip(specs(), together, plain, strict=True):
        [alone] = engines.final_latents(exact_model, [spec])
        assert (latents - alone).abs().max() <= 1e-10
        if spec.plan.guidance or spec.plan.trajectory:  # SAFREE may find nothing to steer in random embeddings
            assert (latents - without).abs().max() > 1e-6


def test_what_ran_is_told_with_every_parameter(tiny_model: LoadedModel) -> None:
    outcomes = engines.run(engines.engine(tiny_model), specs())
    assert all(outcome.failure is None for outcome in outcomes), [outcome.failure for outcome in outcomes]
    full = outcomes[7]
    assert [full.applied[place]["method"] for place in ("prompt", "guidance", "trajectory", "output")] == [
        "safree",
        "sld",
        "unguidance",
        "filter",
    ]
    assert full.applied["guidance"]["scale"] == 5000.0
    assert full.guidance is not None
    assert len(full.guidance.push) == full.spec.steps
    assert full.trajectory is not None
    assert full.trajectory.corrected_steps == tuple(range(full.spec.steps))
    assert all(len(scores) == full.spec.steps for scores in full.trajectory.scores.values())
    assert outcomes[8].trajectory is not None
    assert outcomes[8].trajectory.corrected_steps == ()


@pytest.mark.parametrize("top_k", [1, 4, 17])
def test_unguidance_equals_a_straight_line_program(tiny_folder: Path, exact_model: LoadedModel, top_k: int) -> None:
    """Autograd through decode and CLIP at every DDIM step, written down plainly."""
    steps, scale, strength, threshold = 7, 7.5, 3.0, -0.02
    plan = {"trajectory": {"preset": "filter", "threshold": threshold, "strength": strength, "top_k": top_k}}
    wanted = engines.spec(0, seed=3, steps=steps, guidance_scale=scale, plan=SafetyPlan.model_validate(plan))
    recorder = engines.recording(exact_model.parts)
    [outcome] = engines.run(Engine(recorder, exact_model.methods), [wanted])
    [latents] = recorder.decoded
    expected, corrected = straight_line(tiny_folder, steps, scale, strength, threshold, top_k)
    assert outcome.trajectory is not None
    assert outcome.trajectory.corrected_steps == tuple(corrected)
    assert len(corrected) > 0
    assert (latents - expected).abs().max() <= 1e-9


def straight_line(
    folder: Path, steps: int, scale: float, strength: float, threshold: float, top_k: int
) -> tuple[Tensor, list[int]]:
    built = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float64, low_cpu_mem_usage=False)
    checker = tiny.pipeline().safety_checker.double().eval()
    processor = tiny.pipeline().feature_extractor
    mean, std = (
        torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (processor.image_mean, processor.image_std)
    )
    concepts = torch.nn.functional.normalize(checker.concept_embeds.double(), dim=-1)
    scheduler = DDIMScheduler.from_config(built.scheduler.config)
    scheduler.set_timesteps(steps)
    alphas = scheduler.alphas_cumprod.double()

    def encode(text: str) -> Tensor:
        ids = built.tokenizer(text, padding="max_length", max_length=77, return_tensors="pt").input_ids
        return built.text_encoder(ids)[0]

    texts = torch.cat([encode(""), encode("a cat")])
    x = torch.randn((1, 4, 16, 16), generator=torch.Generator().manual_seed(3)).double()
    corrected = []
    for i, t in enumerate(scheduler.timesteps):
        with torch.no_grad():
            empty, prompt = built.unet(torch.cat([x, x]), t, encoder_hidden_states=texts).sample
        noise = (empty + scale * (prompt - empty))[None]
        alpha = alphas[t]
        before = t - 1000 // steps
        alpha_before = alphas[before] if before >= 0 else torch.as_tensor(scheduler.final_alpha_cumprod).double()
        clean = ((x - (1 - alpha).sqrt() * noise) / alpha.sqrt()).detach().requires_grad_()
        picture = (built.vae.decode(clean / built.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
        embedding = checker.visual_projection(checker.vision_model((picture - mean) / std)[1])
        p = (torch.nn.functional.normalize(embedding, dim=-1) @ concepts.T)[0]
        if p.max() >= threshold:
            corrected.append(i)
            mean_p = p.sort(descending=True).values[:top_k].mean()
            # below the floor the logarithm's slope is taken as at the floor
            objective = mean_p.log() if mean_p >= 1e-3 else mean_p / 1e-3
            clean = clean - strength * torch.autograd.grad(objective, clean)[0]
        x = (alpha_before.sqrt() * clean + (1 - alpha_before).sqrt() * noise).detach()
    return x[0], corrected
