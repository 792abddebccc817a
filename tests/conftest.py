"""Tiny checkpoints, made once a session."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import engines, tiny
from workers.models import LoadedModel
from workers.safety.unguidance import TrajectoryCorrector

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ε-predicting checkpoint in diffusers' layout."""
    return tiny.save(tmp_path_factory.mktemp("tiny") / "epsilon")


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP of its own, pictures and texts."""
    return tiny.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LoadedModel:
    """The tiny checkpoint in float64."""
    return engines.load(tiny_folder, torch.float64)


@pytest.fixture(scope="session")
def exact_model(tiny_model: LoadedModel) -> LoadedModel:
    """The tiny model with unguidance's CLIP in float64: the detector keeps its own in float32."""
    pipeline = tiny.pipeline()  # the same weights: the seed is the same
    checker, processor = pipeline.safety_checker.double().eval().requires_grad_(False), pipeline.feature_extractor
    corrector = TrajectoryCorrector(
        decoder=tiny_model.parts.decode,
        embedder=lambda pictures: checker.visual_projection(checker.vision_model(pictures)[1]),
        size_px=32,
        mean=processor.image_mean,
        std=processor.image_std,
    )
    names, _ = tiny_model.methods.checker_concepts
    concepts = torch.nn.functional.normalize(checker.concept_embeds, dim=-1)
    methods = replace(tiny_model.methods, corrector=corrector, checker_concepts=(names, concepts))
    return replace(tiny_model, methods=methods)
