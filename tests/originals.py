"""A tiny model to erase from, in float64 for claims about arithmetic."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lab.erasure.original import Original
from tests import tiny
from workers.engine.text import PromptEncoder
from workers.variants.card import Base

SHA = "c" * 64


def tiny_original(dtype: torch.dtype = torch.float64, prediction_type: str = "epsilon") -> Original:
    """Nothing of it is trained yet."""
    pipeline = tiny.pipeline(prediction_type)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        part.requires_grad_(False).eval().to(dtype)
    return Original(
        base=Base(name="tiny", weights_sha256=SHA),
        unet=pipeline.unet,
        vae=pipeline.vae,
        tokenizer=pipeline.tokenizer,
        prompts=PromptEncoder(pipeline.tokenizer, pipeline.text_encoder),
        scheduler_config=dict(pipeline.scheduler.config),
    )


def lay_over(unet: torch.nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Write tensors over a UNet's own, in place and in its dtype; returns what was there, to be laid over again."""
    state = unet.state_dict()
    before = {name: state[name].clone() for name in tensors}
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)
    return before
