"""ESD, erased stable diffusion (Gandikota et al. 2023, https://arxiv.org/abs/2303.07345, eq. 7).

    loss = ‖ε_θ(x_t, c) − [ε*_∅ − η (ε*_c − ε*_∅)]‖²,    mean over the latent's elements

    symbol  here           meaning
    ε_θ     student        the network being trained
    ε*      frozen         the original network
    x_t     noisy          sampled by the student for c with guidance 3, up to a random step
    c, ∅    concept, empty the text to erase, the empty prompt
    η       erase_scale    1 in the paper

esd-x trains cross-attention, esd-x-strict its keys and values only, esd-u everything else. Adam. Of several concepts
each iteration draws one. The timestep is the very one at which sampling stopped; the authors' first code drew it from a
bin around it.
"""

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from contract.recipe import Esd
from lab.erasure.networks import Networks, Predict
from lab.erasure.original import Original
from lab.erasure.sampling import denoise_until
from lab.erasure.training import Course, randomness
from workers.engine.schedule import Schedule


def loss(
    student: Predict,
    frozen: Predict,
    noisy: Tensor,
    timestep: Tensor,
    concept: Tensor,
    empty: Tensor,
    erase_scale: float,
) -> Tensor:
    """The equation above; `noisy` (n, 4, h, w), texts (n, tokens, dim)."""
    with torch.no_grad():
        unconditioned, conditioned = frozen(torch.cat([noisy, noisy]), timestep, torch.cat([empty, concept])).chunk(2)
        target = unconditioned - erase_scale * (conditioned - unconditioned)
    return mse_loss(student(noisy, timestep, concept), target)


def course(original: Original, networks: Networks, recipe: Esd, schedule: Schedule) -> Course:
    """ESD as the shared loop takes it."""
    concepts = [original.encode(text) for text in recipe.concepts]
    empty = original.encode("")

    def loss_at(iteration: int) -> Tensor:
        drawn = randomness(original, recipe, iteration)
        concept = concepts[drawn.choice % len(concepts)]
        noisy = denoise_until(
            networks.student, schedule, drawn.noise, concept, empty, recipe.sampling_guidance, drawn.until
        )
        return loss(
            networks.student,
            networks.frozen,
            noisy,
            schedule.timesteps[drawn.until],
            concept.expand(len(noisy), -1, -1),
            empty.expand(len(noisy), -1, -1),
            recipe.erase_scale,
        )

    return Course(
        loss_at=loss_at,
        optimizer=torch.optim.Adam(networks.trained.values(), lr=recipe.learning_rate),
        rate_at=lambda iteration: recipe.learning_rate,
    )
