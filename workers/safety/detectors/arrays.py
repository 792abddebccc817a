"""Small learned weights from a file: safetensors or .npz, never a pickle."""

import zlib
from io import BytesIO
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from workers.safety.detectors.detector import UnusableDetector


def read(file: Path) -> dict[str, Tensor]:
    """Tensors by name, float32.

    Raises:
        UnusableDetector: no such file, another format, damaged, or holding what is not finite.
    """
    if not file.is_file():
        raise UnusableDetector(f"there is no file {file}")
    try:
        if file.suffix == ".npz":
            with np.load(BytesIO(file.read_bytes()), allow_pickle=False) as content:
                tensors = {name: torch.from_numpy(content[name]) for name in content}
        elif file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            raise UnusableDetector(
                f"{file} is no .safetensors or .npz file; load the published one where you trust it and save its"
                " tensors with safetensors.torch.save_file"
            )
    except (SafetensorError, ValueError, OSError, TypeError, EOFError, BadZipFile, zlib.error) as error:
        if isinstance(error, UnusableDetector):
            raise
        raise UnusableDetector(f"{file} cannot be read: {error}") from None
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise UnusableDetector(f"{file} holds numbers that are not finite")
    return {name: tensor.float() for name, tensor in tensors.items()}
