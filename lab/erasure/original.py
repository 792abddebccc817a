"""The model to erase from: the parts that recipes call, in float32."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTokenizer

from workers.checkpoint import find_folder, hash_weights
from workers.engine.text import PromptEncoder
from workers.models import open_pipeline
from workers.readable import UnreadableText
from workers.variants.card import Base


class UnusableConcept(ValueError):
    """A concept text that this model cannot read."""

    def __init__(self, text: str, why: str) -> None:
        super().__init__(f"{text!r}: {why}")
        self.text = text


@dataclass(frozen=True)
class Original:
    """A Stable-Diffusion-shaped model; its UNet is the one that gets trained."""

    base: Base
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    tokenizer: CLIPTokenizer
    prompts: PromptEncoder
    scheduler_config: dict[str, Any]

    @classmethod
    def open(cls, source: str, device: torch.device) -> "Original":
        """A folder in diffusers' layout, or a hub id.

        Raises:
            UnusableModel: no text-to-image checkpoint in safetensors.
        """
        folder = find_folder(source)
        pipeline = open_pipeline(folder, torch.float32)
        for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
            part.requires_grad_(False).eval().to(device)
        pipeline.unet.to(memory_format=torch.channels_last)
        return cls(
            base=Base(
                name=folder.resolve().name if Path(source).is_dir() else source, weights_sha256=hash_weights(folder)
            ),
            unet=pipeline.unet,
            vae=pipeline.vae,
            tokenizer=pipeline.tokenizer,
            prompts=PromptEncoder(pipeline.tokenizer, pipeline.text_encoder),
            scheduler_config=dict(pipeline.scheduler.config),
        )

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) at the size the model was trained for."""
        return self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size

    def encode(self, text: str) -> Tensor:
        """A text → (1, tokens, dim).

        Raises:
            UnusableConcept: it is longer than the text encoder reads.
        """
        try:
            return self.prompts.encode(text)[None]
        except UnreadableText as error:
            raise UnusableConcept(text, f"{error}, or erase fewer concepts at once") from None

    def last_token(self, text: str) -> Tensor:
        """The embedding of a text's last own token, (dim,); of the empty text that of the start token."""
        conditioning = self.encode(text)[0]
        return conditioning[len(self.tokenizer(text).input_ids) - 2]
