"""Preview sheets: the same noises before and after, a row of each, to see what a training does."""

from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from contract.request import Scheduler
from lab.erasure.networks import Predict
from lab.erasure.original import Original
from lab.erasure.sampling import denoise_until
from lab.world.sheets import grid, save
from workers.engine.model import to_pixels
from workers.engine.schedule import build_schedule

STEPS: Final = 25
GUIDANCE: Final = 4.0
SEED: Final = 7_000_001  # no training seed, no measuring seed
MOST: Final = 8


class Previews:
    """Draws every sheet from the same texts and noises."""

    def __init__(self, original: Original, texts: tuple[str, ...]) -> None:
        self._original = original
        self._texts = texts[:MOST]
        self._schedule = build_schedule(Scheduler.DDIM, STEPS, original.scheduler_config)

    def draw(self, before: Predict, after: Predict, file: Path) -> None:
        """A sheet of two rows: what the texts give with the original weights, and with those of now."""
        pictures = torch.cat([self._pictures(before), self._pictures(after)])
        save(grid(to_pixels(pictures), columns=len(self._texts)), file)

    @torch.no_grad()
    def _pictures(self, predict: Predict) -> Tensor:
        """(texts, 3, height, width)."""
        original, pictures = self._original, []
        for index, text in enumerate(self._texts):
            generator = torch.Generator().manual_seed(SEED + index)
            noise = torch.randn(1, *original.latent_shape, generator=generator).to(original.unet.device)
            texts = original.encode(text), original.encode("")
            latents = denoise_until(predict, self._schedule, noise, *texts, GUIDANCE, STEPS)
            pictures.append(original.vae.decode(latents / original.vae.config.scaling_factor, return_dict=False)[0])
        return torch.cat(pictures)
