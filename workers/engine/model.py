"""The parts of a Stable-Diffusion-shaped model that the engine calls."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor

from workers.engine.text import PromptEncoder
from workers.engine.text_attention import TextProjection
from workers.engine.weights import SwappedWeights
from workers.safety.protocol import Detector


@dataclass(frozen=True)
class EngineModel:
    """A UNet, a VAE, a prompt encoder and a detector on one device. Latents are kept in `latent_dtype`."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    prompts: PromptEncoder
    project_text: TextProjection  # the UNet takes texts that went through it
    detector: Detector
    scheduler_config: dict[str, Any]
    weights: SwappedWeights  # the UNet's
    latent_dtype: torch.dtype = torch.float32

    @property
    def device(self) -> torch.device:
        """Where the UNet lives; everything else follows it."""
        return self.unet.device

    @property
    def scale_factor(self) -> int:
        """Pixels per latent along each side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(channels, height, width) of the latents of a picture of that many pixels."""
        return self.unet.config.in_channels, height // self.scale_factor, width // self.scale_factor

    @torch.inference_mode()
    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
        """(rows, 4, h, w), (rows,), (rows, tokens, columns) → the UNet's output (rows, 4, h, w), in `latent_dtype`."""
        latents = latents.to(self.unet.dtype, memory_format=torch.channels_last)
        output: Tensor = self.unet(latents, timesteps, encoder_hidden_states=conditioning, return_dict=False)[0]
        return output.to(self.latent_dtype)

    def decode(self, latents: Tensor) -> Tensor:
        """(pictures, 4, h, w) → (pictures, 3, height, width), nominally in [-1, 1], in `latent_dtype`."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype, memory_format=torch.channels_last)
        decoded: Tensor = self.vae.decode(scaled, return_dict=False)[0]
        return decoded.to(self.latent_dtype)

    def free_memory(self) -> None:
        """Give cached device memory back before something smaller is tried."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def to_pixels(decoded: Tensor) -> NDArray[np.uint8]:
    """(pictures, 3, height, width) in [-1, 1] → (pictures, height, width, 3) RGB, rounded as diffusers does."""
    scaled = (decoded / 2 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = scaled.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
