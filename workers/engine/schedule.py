"""Samplers as tables: every step of DDIM, Euler and DPM++ 2M is one linear rule with its own coefficients.

With x the sample, o the UNet's output, and p the clean latent of the step before:

    input  = in · x                          what the UNet sees
    clean  = cx · x + co · o                 predicted clean latent x̂0
    noise  = nx · x + no · o                 predicted noise ε
    x_next = sx · x + sc · clean + sn · noise + sp · p

    DDIM      Song et al. 2020, eq. 12 with η = 0            x_next = √ᾱ' · clean + √(1−ᾱ') · noise
    Euler     Karras et al. 2022, algorithm 2 without churn  x_next = clean + σ' · noise
    DPM++ 2M  Lu et al. 2022, algorithm 2                    x_next = (σ'/σ) x + g · clean + g/(2r) · (clean − p)

so rows at different steps of different samplers advance together. `correct` of a trajectory method changes `clean`
and leaves `noise`. Timesteps and noise levels come from diffusers' scheduler classes, configured as the model is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from contract.request import Scheduler

COLUMNS = ("in", "cx", "co", "nx", "no", "sx", "sc", "sn", "sp")
SUPPORTED_PREDICTIONS = ("epsilon", "v_prediction")


@dataclass(frozen=True)
class Schedule:
    """A sampler's whole course for one number of steps."""

    timesteps: Tensor  # (steps,), float64
    table: Tensor  # (steps, len(COLUMNS)), float64
    init_scale: float  # standard deviation of the first sample

    def __len__(self) -> int:
        return len(self.timesteps)


def build_schedule(scheduler: Scheduler, steps: int, config: dict[str, Any]) -> Schedule:
    """The schedule of a model whose `scheduler/scheduler_config.json` is `config`.

    Raises:
        ValueError: when the model's prediction type is neither ε nor v, or its schedule has no such number of steps.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in SUPPORTED_PREDICTIONS:
        raise ValueError(f"prediction type {prediction!r} is not supported; supported: {SUPPORTED_PREDICTIONS}")
    if steps > config["num_train_timesteps"]:
        raise ValueError(f"{steps} steps are more than the {config['num_train_timesteps']} the model was trained with")
    build = {
        Scheduler.DDIM: _ddim,
        Scheduler.EULER: _euler,
        Scheduler.DPMPP_2M: _dpmpp_2m,
    }[scheduler]
    return build(steps, config, prediction == "v_prediction")


def _ddim(steps: int, config: dict[str, Any], is_v: bool) -> Schedule:
    sampler = DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)
    sampler.set_timesteps(steps)
    alphas = sampler.alphas_cumprod.double()
    previous = sampler.timesteps - sampler.config.num_train_timesteps // steps
    alpha = alphas[sampler.timesteps]
    alpha_next = torch.where(
        previous >= 0, alphas[previous.clamp(min=0)], torch.as_tensor(sampler.final_alpha_cumprod).double()
    )
    zero, one = torch.zeros_like(alpha), torch.ones_like(alpha)
    table = _columns(
        _predictions(alpha.sqrt(), (1 - alpha).sqrt(), is_v),
        {"in": one, "sx": zero, "sc": alpha_next.sqrt(), "sn": (1 - alpha_next).sqrt(), "sp": zero},
    )
    return Schedule(sampler.timesteps.double(), table, init_scale=1.0)


def _euler(steps: int, config: dict[str, Any], is_v: bool) -> Schedule:
    sampler = EulerDiscreteScheduler.from_config(config)
    sampler.set_timesteps(steps)
    sigma, sigma_next = sampler.sigmas[:-1].double(), sampler.sigmas[1:].double()
    input_scale = (sigma**2 + 1).rsqrt()
    zero, one = torch.zeros_like(sigma), torch.ones_like(sigma)
    # The sample is not scaled to unit variance here: x = clean + σ · noise, and v is predicted from in · x.
    if is_v:
        predictions = {
            "cx": input_scale**2,
            "co": -sigma * input_scale,
            "nx": sigma * input_scale**2,
            "no": input_scale,
        }
    else:
        predictions = {"cx": one, "co": -sigma, "nx": zero, "no": one}
    table = _columns(predictions, {"in": input_scale, "sx": zero, "sc": one, "sn": sigma_next, "sp": zero})
    return Schedule(sampler.timesteps.double(), table, init_scale=float(sampler.init_noise_sigma))


def _dpmpp_2m(steps: int, config: dict[str, Any], is_v: bool) -> Schedule:
    sampler = DPMSolverMultistepScheduler.from_config(
        config,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        euler_at_final=False,
        final_sigmas_type="zero",
        thresholding=False,
    )
    sampler.set_timesteps(steps)
    ratio = sampler.sigmas.double()  # σ/α at each step, then 0
    alpha = (ratio**2 + 1).rsqrt()
    sigma = ratio * alpha
    first_order = alpha[1:] - sigma[1:] * alpha[:-1] / sigma[:-1]  # g = α' (1 − e^−h)
    log_snr = -ratio[:-1].log()  # λ of every step but the end, where it is infinite
    half_inverse_r = torch.zeros_like(first_order)  # 1 / 2r; 0 at the first and the last step, which are first order
    half_inverse_r[1:-1] = 0.5 * (log_snr[2:] - log_snr[1:-1]) / (log_snr[1:-1] - log_snr[:-2])
    second_order = first_order * half_inverse_r
    table = _columns(
        _predictions(alpha[:-1], sigma[:-1], is_v),
        {
            "in": torch.ones_like(first_order),
            "sx": sigma[1:] / sigma[:-1],
            "sc": first_order + second_order,
            "sn": torch.zeros_like(first_order),
            "sp": -second_order,
        },
    )
    return Schedule(sampler.timesteps.double(), table, init_scale=float(sampler.init_noise_sigma))


def _predictions(alpha: Tensor, sigma: Tensor, is_v: bool) -> dict[str, Tensor]:
    """Clean latent and noise from x = α · clean + σ · noise and either ε or v = α · noise − σ · clean."""
    if is_v:
        return {"cx": alpha, "co": -sigma, "nx": sigma, "no": alpha}
    return {"cx": 1 / alpha, "co": -sigma / alpha, "nx": torch.zeros_like(alpha), "no": torch.ones_like(alpha)}


def _columns(predictions: dict[str, Tensor], rule: dict[str, Tensor]) -> Tensor:
    columns = predictions | rule
    return torch.stack([columns[name] for name in COLUMNS], dim=1)


def advance(
    sample: Tensor, output: Tensor, previous: Tensor, coefficients: Tensor, correct: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """One step of many rows at once.

    Args:
        sample, output, previous: (rows, 4, h, w): x, the combined UNet output, the clean latents of the step before
        coefficients: (rows, len(COLUMNS)), each row's own line of its table
        correct: (rows, 4, h, w) → the same; changes the clean latents of the rows that have a trajectory method

    Returns:
        (rows, 4, h, w) twice: the next sample and the clean latents.
    """
    _, cx, co, nx, no, sx, sc, sn, sp = coefficients.to(sample)[:, :, None, None, None].unbind(1)
    clean = correct(cx * sample + co * output)
    noise = nx * sample + no * output
    return sx * sample + sc * clean + sn * noise + sp * previous, clean
