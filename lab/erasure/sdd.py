"""SDD, safe self-distillation diffusion (Kim et al. 2023, https://arxiv.org/abs/2307.05977, eq. 6 and algorithm 1).

    loss = ‖sg[ε_θ(x_t, ∅)] − ε_θ(x_t, c_s)‖²,    mean over the latent's elements
    θ̄ ← m θ̄ + (1 − m) θ    after every step

    symbol  here           meaning
    ε_θ     student        the network being trained; sg: no gradient
    θ̄       teacher        moving average of the student, m = average_decay; it samples, and it is what is saved
    x_t     noisy          sampled by the teacher for one concept in turn with guidance 3, up to a random step
    c_s     together       all concepts joined by ", "; ∅ the empty prompt

AdamW, cosine rate with warm-up, gradients clipped, cross-attention only. As in the paper; the published code swaps the
roles of c_s and the concept in turn, and never stops at step 0, while here every step is drawn alike.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from contract.recipe import Sdd
from lab.erasure.networks import Networks, Predict
from lab.erasure.original import Original
from lab.erasure.sampling import denoise_until
from lab.erasure.training import Course, randomness
from workers.engine.schedule import Schedule


def loss(student: Predict, noisy: Tensor, timestep: Tensor, together: Tensor, empty: Tensor) -> Tensor:
    """The equation above; `noisy` (n, 4, h, w), texts (n, tokens, dim)."""
    with torch.no_grad():
        target = student(noisy, timestep, empty)
    return mse_loss(student(noisy, timestep, together), target)


def course(original: Original, networks: Networks, recipe: Sdd, schedule: Schedule) -> Course:
    """SDD as the shared loop takes it."""
    concepts = [original.encode(text) for text in recipe.concepts]
    together = original.encode(", ".join(recipe.concepts))
    empty = original.encode("")

    def loss_at(iteration: int) -> Tensor:
        drawn = randomness(original, recipe, iteration)
        concept = concepts[iteration % len(concepts)]
        noisy = denoise_until(
            networks.teacher, schedule, drawn.noise, concept, empty, recipe.sampling_guidance, drawn.until
        )
        texts = [text.expand(len(noisy), -1, -1) for text in (together, empty)]
        return loss(networks.student, noisy, schedule.timesteps[drawn.until], *texts)

    return Course(
        loss_at=loss_at,
        optimizer=torch.optim.AdamW(
            networks.trained.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        ),
        rate_at=lambda iteration: recipe.learning_rate * warm_cosine(iteration, recipe),
        clip_norm=recipe.clip_norm,
        average_decay=recipe.average_decay,
    )


def warm_cosine(iteration: int, recipe: Sdd) -> float:
    """Share of the learning rate: a linear rise over the warm-up, then half a cosine down to 0."""
    if iteration < recipe.warmup_iterations:
        return iteration / recipe.warmup_iterations
    gone = (iteration - recipe.warmup_iterations) / max(1, recipe.iterations - recipe.warmup_iterations)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, gone)))
