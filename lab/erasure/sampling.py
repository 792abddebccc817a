"""Half-denoised latents to learn on: DDIM with classifier-free guidance, stopped exactly before a given step."""

import torch
from torch import Tensor

from lab.erasure.networks import Predict
from workers.engine.schedule import Schedule, advance


@torch.no_grad()
def denoise_until(
    predict: Predict, schedule: Schedule, noise: Tensor, concept: Tensor, empty: Tensor, guidance: float, until: int
) -> Tensor:
    """Latents as they are when step `until` (from 0) is about to be predicted, at `schedule.timesteps[until]`.

    Args:
        predict: the network that samples
        noise: (n, 4, h, w), standard normal; what comes back for `until` 0
        concept, empty: (1, tokens, dim)
    """
    sample = noise * schedule.init_scale
    texts = torch.cat([empty.expand(len(noise), -1, -1), concept.expand(len(noise), -1, -1)])
    for step in range(until):
        unconditioned, conditioned = predict(torch.cat([sample, sample]), schedule.timesteps[step], texts).chunk(2)
        output = unconditioned + guidance * (conditioned - unconditioned)
        coefficients = schedule.table[step].expand(len(noise), -1)
        sample, _ = advance(sample, output.to(sample.dtype), sample, coefficients, lambda clean: clean)
    return sample
