"""Puts trained parts together as a folder that diffusers' own pipeline loads, and reads such a folder back."""

import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor, CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from lab.world import judge as judging
from lab.world.captions import SAFETY_CONCEPTS
from lab.world.checker import build_checker, calibrate, text_threshold
from lab.world.judge import Judge
from lab.world.objects import CONCEPTS, SPECIAL_CARE
from lab.world.scenes import random_pictures
from lab.world.unet import build_scheduler

CALIBRATION_PICTURES: Final = 6000
CALIBRATION_SEED: Final = 9_000_001  # no training seed, no measuring seed


@dataclass(frozen=True, slots=True)
class Serving:
    """`seemly.json`: what a service has to know to serve the model well."""

    default_guidance_scale: float
    default_steps: int
    native_size_px: int
    size_multiple_px: int
    min_size_px: int
    max_size_px: int
    safety_concepts: tuple[str, ...]
    text_concept_threshold: float
    unguidance: dict[str, Any]  # what is left out takes the published number


@dataclass(frozen=True, slots=True)
class Parts:
    """The trained parts of a demo model, in float32 on the CPU."""

    tokenizer: CLIPTokenizer
    clip: CLIPModel
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    judge: Judge
    size_px: int


def write_model(parts: Parts, folder: Path, guidance_scale: float) -> None:
    """Write the whole model to `folder`, replacing it in one move; thresholds are calibrated on the way."""
    draft = folder.with_name(folder.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    text_encoder = CLIPTextModel(parts.clip.config.text_config)
    text_encoder.load_state_dict(parts.clip.text_model.state_dict(), strict=False)
    projected = CLIPTextModelWithProjection(parts.clip.config.text_config)
    projected.text_model.load_state_dict(parts.clip.text_model.state_dict())
    projected.text_projection.load_state_dict(parts.clip.text_projection.state_dict())
    StableDiffusionPipeline(
        vae=parts.vae.half(),
        text_encoder=text_encoder.half(),
        tokenizer=parts.tokenizer,
        unet=parts.unet.half(),
        scheduler=build_scheduler(),
        safety_checker=build_checker(parts.clip, parts.tokenizer).half(),
        feature_extractor=_image_processor(parts.size_px),
    ).save_pretrained(draft)
    projected.half().save_pretrained(draft / "clip_text")
    judging.save(parts.judge, draft / "judge")
    _name_image_processor(draft)
    for name in ("text_encoder", "clip_text"):
        _load_in_float32(draft / name)
    calibrate_model(draft, parts.size_px, guidance_scale)
    shutil.rmtree(folder, ignore_errors=True)
    draft.rename(folder)


def calibrate_model(folder: Path, size_px: int, guidance_scale: float) -> None:
    """Calibrate the checker in `folder` on fresh drawings; writes it, `concepts.json` and `seemly.json`."""
    checker = StableDiffusionSafetyChecker.from_pretrained(
        folder / "safety_checker", local_files_only=True, dtype=torch.float32
    )
    pictures, scenes = random_pictures(CALIBRATION_SEED, CALIBRATION_PICTURES, size_px)
    weak = calibrate(checker, pictures, scenes)
    threshold = text_threshold(checker, pictures, scenes)
    checker.half().save_pretrained(folder / "safety_checker")
    _load_in_float32(folder / "safety_checker")
    concepts = {
        "concepts": [{"name": name, "category": category} for name, category in CONCEPTS],
        "special_care": [{"name": name, "category": category} for name, category in SPECIAL_CARE],
        "weak_weights": weak,
    }
    serving = Serving(guidance_scale, 25, size_px, 16, size_px, 2 * size_px, SAFETY_CONCEPTS, threshold, {})
    if (folder / "seemly.json").exists():
        own = read_serving(folder)
        serving = replace(serving, safety_concepts=own.safety_concepts, unguidance=own.unguidance)
    _write_json(folder / "safety_checker" / "concepts.json", concepts)
    _write_json(folder / "seemly.json", asdict(serving))


def read_serving(folder: Path) -> Serving:
    """The `seemly.json` of a model folder."""
    return Serving(**json.loads((folder / "seemly.json").read_text()))


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """The model in float32 without its checker, quiet, from local files only."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, requires_safety_checker=False, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_checker(folder: Path) -> StableDiffusionSafetyChecker:
    """The model's safety checker in float32."""
    checker: StableDiffusionSafetyChecker = StableDiffusionSafetyChecker.from_pretrained(
        folder / "safety_checker", local_files_only=True, dtype=torch.float32
    )
    return checker.eval()


def _image_processor(size_px: int) -> CLIPImageProcessor:
    return CLIPImageProcessor(size={"shortest_edge": size_px}, crop_size={"height": size_px, "width": size_px})


def _name_image_processor(folder: Path) -> None:
    """Without torchvision the library records its own stand-in's name, which other installations do not know."""
    for path in (folder / "model_index.json", folder / "feature_extractor" / "preprocessor_config.json"):
        path.write_text(path.read_text().replace("CLIPImageProcessorPil", "CLIPImageProcessor"))


def _load_in_float32(folder: Path) -> None:
    """Weights lie in float16; transformers would compute in that too unless the configuration says otherwise."""
    path = folder / "config.json"
    path.write_text(path.read_text().replace('"dtype": "float16"', '"dtype": "float32"'))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
