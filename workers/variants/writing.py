"""Variants written: only what differs from the base, in safetensors, with the card."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from workers.variants.card import WEIGHTS, VariantCard, kind_of, write_card


class UnusableWeights(ValueError):
    """Tensors that make no variant; the message names no path."""


def write_variant(
    folder: Path, tensors: Mapping[str, Tensor], original: Mapping[str, Tensor], dtype: torch.dtype, **told: Any
) -> VariantCard:
    """Write `variant.safetensors` and `card.json`; the card comes last, and without it a folder is no variant.

    Args:
        folder: made when it is not there; its name becomes the variant's
        tensors: names of the UNet's state → new values; those equal to the base's are left out
        original: the state of the base's UNet, these tensors at least
        dtype: to store in
        told: the card's other fields

    Raises:
        UnusableWeights: nothing differs, or a value does not fit `dtype`.
    """
    changed = {
        name: tensors[name].detach().to("cpu", dtype).contiguous()
        for name in sorted(tensors)
        if not torch.equal(tensors[name].to(original[name]), original[name])
    }
    if not changed:
        raise UnusableWeights("no tensor differs from the base: nothing was erased")
    if broken := [name for name, tensor in changed.items() if not tensor.isfinite().all()]:
        raise UnusableWeights(f"NaN or infinity as {dtype} in {broken[0]}: store in another dtype, or train anew")
    weights = save(changed, {"format": "pt"})
    card = VariantCard(
        name=folder.name,
        kind=kind_of(tuple(changed)),
        tensors=tuple(changed),
        dtype=str(dtype).removeprefix("torch."),
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        **told,
    )
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{WEIGHTS}.part"
    part.write_bytes(weights)
    os.replace(part, folder / WEIGHTS)
    write_card(folder, card)
    return card
