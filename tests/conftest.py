"""Tiny checkpoints, made once a session."""

from pathlib import Path

import pytest
import torch

from tests import engines, tiny
from workers.models import LoadedModel

torch.set_num_threads(1)  # tiny tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ε-predicting checkpoint in diffusers' layout."""
    return tiny.save(tmp_path_factory.mktemp("tiny") / "epsilon")


@pytest.fixture(scope="session")
def tiny_model(tiny_folder: Path) -> LoadedModel:
    """The tiny checkpoint in float64."""
    return engines.load(tiny_folder, torch.float64)
