"""Models: a Stable-Diffusion-shaped checkpoint, from a local folder or a hub, into the parts the engine calls.

Safetensors only, no code from a checkpoint. A folder may hold, beside diffusers' own layout,

    seemly.json                    defaults and bounds; a field left out takes the value in `Defaults`
    safety_checker/concepts.json   names of the checker's concepts (`workers.safety.checker_concepts`)
    clip_text/                     the checker's own CLIP text tower with projection, for concepts given as text
    effects.json                   what safety methods came to when measured on it (`contract.effect`)
"""

import hashlib
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.utils import logging as diffusers_logging
from pydantic import Field
from transformers import CLIPImageProcessor, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.utils import logging as transformers_logging

from contract.effect import MeasuredEffects
from contract.model import ModelInfo
from contract.request import Scheduler
from contract.strict import Strict
from workers.checkpoint import WEIGHING, UnusableModel, check_detector, check_pin, find_folder
from workers.engine.model import EngineModel
from workers.engine.text import PromptEncoder
from workers.engine.text_attention import project_texts_once
from workers.engine.weights import SwappedWeights
from workers.safety.checker_concepts import STABLE_DIFFUSION_1, CheckerConcepts
from workers.safety.detectors.detector import hash_files
from workers.safety.detectors.panel import Panel
from workers.safety.filter import ConceptFilter
from workers.safety.methods import (
    PUBLISHED_CONCEPTS,
    SERVED_ACTIONS,
    SERVED_METHODS,
    SafetyMethods,
    UnguidanceDefaults,
)
from workers.safety.text_concepts import TextConcepts
from workers.safety.unguidance import TrajectoryCorrector

log = logging.getLogger(__name__)


class Defaults(Strict):
    """A model's own defaults and bounds, from its `seemly.json`."""

    default_steps: int = Field(25, ge=1)
    default_guidance_scale: float = 7.5
    native_size_px: int | None = None
    min_size_px: int | None = None
    max_size_px: int | None = None
    size_multiple_px: int | None = None
    safety_concepts: tuple[str, ...] = Field(
        PUBLISHED_CONCEPTS, min_length=1, description="What methods steer away from when a plan names nothing."
    )
    unguidance: UnguidanceDefaults = Field(UnguidanceDefaults(), description="Calibrated for this model.")
    text_concept_threshold: float | None = Field(None, description="Cosine from which a concept given as text is seen.")


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to serve, and what a worker announces about it."""

    parts: EngineModel
    methods: SafetyMethods
    info: ModelInfo
    tokenizer_json: bytes
    detector: ConceptFilter  # the checkpoint's own

    def judged_by(self, panel: Panel) -> Self:
        """The same with every picture looked at by the whole panel."""
        return replace(self, parts=replace(self.parts, detector=panel), info=panel.announced(self.info))


def load(
    source: str,
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    latent_dtype: torch.dtype = torch.float32,
    revision: str | None = None,
    pinned_sha256: str | None = None,
    text_tower: str | None = None,
) -> LoadedModel:
    """Load a checkpoint.

    Args:
        source: a folder in diffusers' layout, or a hub id
        name: what requests call the model
        device, dtype: of the UNet, the VAE and the text encoder; the detector always runs in float32
        latent_dtype: of latents, guidance and coefficients
        revision: of a hub id; pin it
        pinned_sha256: hash that the checkpoint must have, as `workers.checkpoint.hash_weights` computes it
        text_tower: folder or hub id of a CLIP text model with projection; None takes the checkpoint's `clip_text/`

    Raises:
        UnusableModel: no such folder, no safetensors, no safety checker, another kind of model, not as pinned.
    """
    folder = find_folder(source, revision)
    weights_sha256 = check_pin(folder, pinned_sha256)
    pipeline = open_pipeline(folder, dtype)
    defaults = _defaults(folder / "seemly.json")
    checker, image_processor = _checker(folder)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, checker):
        part.requires_grad_(False).eval()
    text_concepts = _text_concepts(pipeline.tokenizer, folder, device, text_tower)
    names = folder / "safety_checker" / "concepts.json"
    detector = ConceptFilter(
        checker=checker.to(device),
        image_processor=image_processor,
        concepts=CheckerConcepts.from_json(names) if names.is_file() else STABLE_DIFFUSION_1,
        version=weights_sha256[:12],
        sha256=_hash_detector(folder, text_tower),
        text_concepts=text_concepts,
    )
    vae_dtype = torch.float32 if dtype == torch.float16 else dtype  # the SD 1.x VAE overflows in float16
    prompts = PromptEncoder(pipeline.tokenizer, pipeline.text_encoder.to(device))
    parts = EngineModel(
        unet=pipeline.unet.to(device, memory_format=torch.channels_last),
        vae=pipeline.vae.to(device, vae_dtype, memory_format=torch.channels_last),
        prompts=prompts,
        project_text=project_texts_once(pipeline.unet),
        detector=detector,
        scheduler_config=dict(pipeline.scheduler.config),
        weights=SwappedWeights(pipeline.unet),
        latent_dtype=latent_dtype,
    )
    methods = SafetyMethods(
        prompts=prompts,
        corrector=_corrector(parts, detector, image_processor),
        text_concepts=text_concepts,
        checker_concepts=(detector.concept_names, detector.concept_embeddings),
        default_concepts=defaults.safety_concepts,
        unguidance=defaults.unguidance,
    )
    measured = _measured(folder / "effects.json", weights_sha256)
    info = _info(name, source, revision, weights_sha256, parts, detector, defaults, pipeline.tokenizer, measured)
    return LoadedModel(parts, methods, info, _tokenizer_json(pipeline.tokenizer), detector)


def _hash_detector(folder: Path, text_tower: str | None) -> str:
    """The same of all that shapes the checker's scores, and those of concepts given as text."""
    tower = find_folder(text_tower) if text_tower else folder / "clip_text"
    parts = (folder / "safety_checker", folder / "feature_extractor", folder / "tokenizer")
    own = (path for part in parts for path in part.glob("*") if path.suffix in WEIGHING)
    digest = hash_files(own, folder)
    if not tower.is_dir():
        return digest
    of_tower = hash_files((path for path in tower.glob("*") if path.suffix in WEIGHING), tower)
    return hashlib.sha256(f"{digest} {of_tower}".encode()).hexdigest()


def open_pipeline(folder: Path, dtype: torch.dtype) -> Any:
    """diffusers' own pipeline without the checker, for its parts.

    Raises:
        UnusableModel: no text-to-image checkpoint in safetensors.
    """
    for library in (diffusers_logging, transformers_logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
    try:
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except Exception as error:
        raise UnusableModel(
            f"{folder} does not load as a Stable Diffusion checkpoint in safetensors: {error}"
        ) from error
    if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
        raise UnusableModel(f"{folder} is no text-to-image model: its UNet takes more than the latents")
    return pipeline


def _checker(folder: Path) -> tuple[StableDiffusionSafetyChecker, CLIPImageProcessor]:
    """The safety checker in float32, whatever the rest runs in: rounded weights would move scores and thresholds."""
    check_detector(folder)
    try:
        checker = StableDiffusionSafetyChecker.from_pretrained(
            folder / "safety_checker", dtype=torch.float32, use_safetensors=True, local_files_only=True
        )
        processor = CLIPImageProcessor.from_pretrained(folder / "feature_extractor", local_files_only=True)
    except Exception as error:
        raise UnusableModel(
            f"{folder} has no usable safety checker, without which no picture could be judged: {error}"
        ) from error
    return checker, processor


def _text_concepts(
    tokenizer: CLIPTokenizer, folder: Path, device: torch.device, text_tower: str | None
) -> TextConcepts | None:
    """The text tower of the checker's own CLIP, when there is one."""
    tower = find_folder(text_tower) if text_tower else folder / "clip_text"
    if not tower.is_dir():
        return None
    model = CLIPTextModelWithProjection.from_pretrained(
        tower, dtype=torch.float32, use_safetensors=True, local_files_only=True
    )
    if (tower / "tokenizer_config.json").is_file():
        tokenizer = CLIPTokenizer.from_pretrained(tower, local_files_only=True)
    return TextConcepts(tokenizer, model.requires_grad_(False).to(device))


def _corrector(parts: EngineModel, detector: ConceptFilter, image_processor: CLIPImageProcessor) -> TrajectoryCorrector:
    return TrajectoryCorrector(
        decoder=parts.decode,
        embedder=detector.embed_normalised,
        size_px=image_processor.crop_size["height"],
        mean=image_processor.image_mean,
        std=image_processor.image_std,
    )


def _info(
    name: str,
    source: str,
    revision: str | None,
    weights_sha256: str,
    parts: EngineModel,
    detector: ConceptFilter,
    defaults: Defaults,
    tokenizer: CLIPTokenizer,
    measured: MeasuredEffects | None,
) -> ModelInfo:
    native = defaults.native_size_px or parts.unet.config.sample_size * parts.scale_factor
    # Every level of the UNet but the last halves the latents; a side they do not divide comes out misaligned.
    multiple = parts.scale_factor * 2 ** (len(parts.unet.config.block_out_channels) - 1)
    return ModelInfo(
        name=name,
        source=source,
        revision=revision,
        weights_sha256=weights_sha256,
        default_steps=defaults.default_steps,
        default_guidance_scale=defaults.default_guidance_scale,
        native_width_px=native,
        native_height_px=native,
        min_size_px=defaults.min_size_px or native // 2,
        max_size_px=defaults.max_size_px or native * 2,
        size_multiple_px=defaults.size_multiple_px or multiple,
        max_tokens=parts.prompts.max_tokens,
        tokenizer_sha256=hashlib.sha256(_tokenizer_json(tokenizer)).hexdigest(),
        schedulers=tuple(Scheduler),
        methods=SERVED_METHODS,
        actions=SERVED_ACTIONS,
        concepts=detector.concept_names,
        detectors=detector.infos,
        default_concepts=defaults.safety_concepts,
        scores_text_concepts=detector.scores_text_concepts,
        text_concept_threshold=defaults.text_concept_threshold,
        measured=measured,
    )


def _defaults(file: Path) -> Defaults:
    if not file.is_file():
        return Defaults()
    try:
        return Defaults.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise UnusableModel(f"{file} is not as Seemly reads it: {error}") from error


def _measured(file: Path, weights_sha256: str) -> MeasuredEffects | None:
    """What was measured on these very weights; figures of others are left out."""
    if not file.is_file():
        return None
    try:
        measured = MeasuredEffects.model_validate_json(file.read_bytes())
    except ValueError as error:
        raise UnusableModel(f"{file} is not as Seemly reads it: {error}") from error
    if measured.settings.weights_sha256 == weights_sha256:
        return measured
    log.warning("%s was measured on other weights and is left out; measure again: seemly evaluate run", file)
    return None


def _tokenizer_json(tokenizer: CLIPTokenizer) -> bytes:
    """The tokenizer as `tokenizer.json`, with which the gateway counts a prompt's tokens."""
    serialized: str = tokenizer.backend_tokenizer.to_str()
    return serialized.encode()
