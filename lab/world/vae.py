"""The autoencoder: pictures to 16x16x4 latents of mean 0 and variance 1 per channel, and back."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lab.world.scenes import random_pictures
from lab.world.training import Budget, fit, step_seed

KL_WEIGHT: Final = 5e-4
# Latents enter the UNet at half their unit deviation: what a picture shows is then settled later on the way from noise,
# after the warm-up that Safe Latent Diffusion leaves unguided.
SCALING_FACTOR: Final = 0.5


def build_vae(budget: Budget) -> AutoencoderKL:
    """The untrained model, one resnet per block and no attention."""
    blocks = len(budget.vae_channels)
    return AutoencoderKL(
        sample_size=budget.size_px,
        latent_channels=4,
        block_out_channels=budget.vae_channels,
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        scaling_factor=SCALING_FACTOR,
        force_upcast=False,
    )


def pixels_of(pictures: NDArray[np.uint8]) -> Tensor:
    """The VAE's input from bytes (n, h, w, 3): shape (n, 3, h, w) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def train_vae(budget: Budget, seed: int, folder: Path) -> AutoencoderKL:
    """Train on random crops of the pictures of `seed`, then fold the latents' statistics into the quantising layers."""
    torch.manual_seed(seed)
    vae = build_vae(budget).to(budget.device)
    pictures, _ = random_pictures(seed, budget.pictures, budget.size_px)
    size_px, crop_px, recipe = budget.size_px, budget.vae_crop_px, budget.vae

    def loss_of(pixels: Tensor, noise: Tensor) -> Tensor:
        posterior = vae.encode(pixels).latent_dist
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        error = decoded - pixels
        across, down = error.diff(dim=-1).abs().mean(), error.diff(dim=-2).abs().mean()
        return error.abs().mean() + 0.5 * (across + down) + (error**2).mean() + KL_WEIGHT * kl

    compiled = torch.compile(loss_of) if budget.compile_vae else loss_of

    def loss_at(step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        tops, lefts = rng.integers(0, size_px - crop_px + 1, (2, recipe.batch))
        chosen = rng.integers(0, len(pictures), recipe.batch)
        crops = [pictures[i, y : y + crop_px, x : x + crop_px] for i, y, x in zip(chosen, tops, lefts, strict=True)]
        latent_px = crop_px // 2 ** (len(budget.vae_channels) - 1)
        noise = torch.randn(
            recipe.batch, 4, latent_px, latent_px, generator=torch.Generator().manual_seed(step_seed(seed, step))
        )
        loss: Tensor = compiled(pixels_of(np.stack(crops)).to(budget.device), noise.to(budget.device))
        return loss

    fit(vae, loss_at, recipe, folder)
    return standardise(vae, latents_of(vae, pictures[:2000]))


@torch.no_grad()
def latents_of(vae: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 64) -> Tensor:
    """Posterior means, shape (n, 4, 16, 16), on the CPU."""
    device = next(vae.parameters()).device
    parts = [
        vae.encode(pixels_of(pictures[at : at + batch]).to(device)).latent_dist.mean.cpu()
        for at in range(0, len(pictures), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def standardise(vae: AutoencoderKL, latents: Tensor) -> AutoencoderKL:
    """Fold each channel's mean and deviation into the quantising layers: pictures stay, latents become standard."""
    mean = latents.mean(dim=(0, 2, 3)).to(vae.device)
    std = latents.std(dim=(0, 2, 3)).to(vae.device)
    before, after = vae.quant_conv, vae.post_quant_conv
    after.bias += torch.einsum("oi,i->o", after.weight[:, :, 0, 0], mean)
    after.weight *= std.view(1, -1, 1, 1)
    before.weight[:4] /= std.view(-1, 1, 1, 1)
    before.bias[:4] = (before.bias[:4] - mean) / std
    before.bias[4:] -= 2 * std.log()
    return vae


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: NDArray[np.uint8], batch: int = 64) -> NDArray[np.uint8]:
    """Pictures through the posterior mean and back, shape (n, h, w, 3)."""
    parts = [
        vae.decode(latents_of(vae, pictures[at : at + batch]).to(vae.device)).sample.cpu()
        for at in range(0, len(pictures), batch)
    ]
    pixels = torch.cat(parts).clamp(-1, 1).add(1).mul(127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).numpy()


def psnr_db(left: NDArray[np.uint8], right: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all pixels, in decibels."""
    error = functional.mse_loss(torch.from_numpy(left).double(), torch.from_numpy(right).double())
    return float(10 * torch.log10(255**2 / error))
