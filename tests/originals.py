"""A tiny model to erase from, in float64 for claims about arithmetic."""

import torch

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
