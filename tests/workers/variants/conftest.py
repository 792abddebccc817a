"""Variants of the tiny checkpoint, random ones, of every kind."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import engines
from tests.workers.lifecycle.conftest import client, server
from workers.models import LoadedModel
from workers.variants.card import Base, is_cross_attention, is_key_or_value
from workers.variants.shelf import VariantShelf
from workers.variants.writing import write_variant

__all__ = ["client", "server"]  # fixtures of the lifecycle, here too

CHOSEN: dict[str, Callable[[str], bool]] = {
    "keys-1": is_key_or_value,
    "keys-2": is_key_or_value,
    "keys-3": lambda name: name.endswith("to_k.weight") and is_key_or_value(name),
    "keys-4": lambda name: name.endswith("to_v.weight") and is_key_or_value(name),
    "attention": is_cross_attention,
    "rest": lambda name: not is_cross_attention(name),
    "all": lambda name: True,
}


@pytest.fixture
def model(tiny_folder: Path) -> LoadedModel:
    """A model of the test's own, since its weights are exchanged; it steers away from less than 77 letters."""
    loaded = engines.load(tiny_folder, torch.float64)
    return replace(loaded, methods=replace(loaded.methods, default_concepts=("gore",)))


def write(folder: Path, model: LoadedModel, seed: int = 0, **told: Any) -> Path:
    """The variant named like the folder, its tensors moved at random."""
    base = model.parts.weights.base
    generator = torch.Generator().manual_seed(seed + len(folder.name))
    moved = {
        name: tensor + 0.3 * tensor.std().nan_to_num() * torch.randn(tensor.shape, generator=generator).to(tensor)
        for name, tensor in base.items()
        if CHOSEN[folder.name](name)
    }
    told = {"method": "uce", "base": Base(name="tiny", weights_sha256=model.info.weights_sha256), **told}
    write_variant(folder, {**base, **moved}, base, torch.float64, **told)
    return folder


@pytest.fixture
def folder(tmp_path: Path, model: LoadedModel) -> Path:
    """A folder of all of them."""
    for seed, name in enumerate(CHOSEN):
        write(tmp_path / "variants" / name, model, seed)
    return tmp_path / "variants"


@pytest.fixture
def shelf(folder: Path, model: LoadedModel) -> VariantShelf:
    """All of them, with room for all."""
    return VariantShelf(folder, model.parts, model.info.weights_sha256, most_bytes=1 << 30)
