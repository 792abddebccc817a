"""The denoiser: a UNet2DConditionModel on 16x16x4 latents, conditioned on the frozen CLIP text tower."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from lab.world.captions import caption_or_none
from lab.world.clip import WIDTH
from lab.world.scenes import random_pictures
from lab.world.tokenizer import encode
from lab.world.training import Budget, fit, step_seed
from lab.world.vae import latents_of

LATENT_PX: Final = 16
SIGNAL_TO_NOISE_CAP: Final = 5.0


def build_unet() -> UNet2DConditionModel:
    """The untrained model: 6.9 M parameters, attention on the two lower levels."""
    return UNet2DConditionModel(
        sample_size=LATENT_PX,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 96, 160),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        norm_num_groups=16,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's own noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def step_weights(alphas_cumprod: Tensor, deviation: float) -> Tensor:
    """Loss weight per timestep, mean 1: min-SNR (Hang et al. 2023) times 1/√ᾱ, for latents of `deviation`."""
    ratio = deviation**2 * alphas_cumprod / (1 - alphas_cumprod)
    weights = ratio.clamp(max=SIGNAL_TO_NOISE_CAP) / ratio * alphas_cumprod.rsqrt()
    return weights / weights.mean()


def train_unet(
    vae: AutoencoderKL, text: CLIPTextModel, tokenizer: CLIPTokenizer, budget: Budget, seed: int, folder: Path
) -> UNet2DConditionModel:
    """Train on the latents of pictures of `seed`, with fresh captions at every step and the text tower frozen."""
    torch.manual_seed(seed)
    device, batch = budget.device, budget.unet.batch
    unet = build_unet().to(device, memory_format=torch.channels_last)
    pictures, scenes = random_pictures(seed, budget.pictures, budget.size_px)
    latents = latents_of(vae, pictures) * vae.config.scaling_factor
    alphas_cumprod = build_scheduler().alphas_cumprod
    weights, timesteps = step_weights(alphas_cumprod, vae.config.scaling_factor), len(alphas_cumprod)

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        torch_rng = torch.Generator().manual_seed(step_seed(seed, step))
        chosen = rng.integers(0, len(scenes), batch)
        captions = [caption_or_none(scenes[index], rng) for index in chosen]
        with torch.no_grad():
            states = text(encode(tokenizer, captions).to(device))[0]
        strata = (torch.arange(batch) + torch.rand(batch, generator=torch_rng)) / batch  # one timestep per equal slice
        steps = (strata * timesteps).long()
        clean = latents[torch.from_numpy(chosen)]
        noise = torch.randn(clean.shape, generator=torch_rng)
        signal = alphas_cumprod[steps].view(-1, 1, 1, 1)
        noisy = signal.sqrt() * clean + (1 - signal).sqrt() * noise
        with torch.autocast(device, dtype=torch.bfloat16, enabled=budget.mixed_precision):
            predicted = unet(noisy.to(device, memory_format=torch.channels_last), steps.to(device), states).sample
        error = (predicted.float() - noise.to(device)).square().mean(dim=(1, 2, 3))
        return (weights[steps].to(device) * error).mean()

    fit(unet, loss_at, budget.unet, folder)
    return unet
