"""The numbers of Safe Latent Diffusion, and the published sets of them."""

from contract.strict import Strict


class SldParameters(Strict):
    """The five numbers of Safe Latent Diffusion."""

    warmup_steps: int  # UNet calls that are left alone
    scale: float  # s_S
    threshold: float  # λ
    momentum_scale: float  # s_m
    momentum_beta: float  # β


def _sld(
    warmup_steps: int, scale: float, threshold: float, momentum_scale: float, momentum_beta: float
) -> SldParameters:
    return SldParameters(
        warmup_steps=warmup_steps,
        scale=scale,
        threshold=threshold,
        momentum_scale=momentum_scale,
        momentum_beta=momentum_beta,
    )


# The authors' model card. diffusers' constant for `weak` says s_S = 20, the card 200.
PRESETS = {
    "weak": _sld(15, 200.0, 0.0, 0.0, 0.0),
    "medium": _sld(10, 1000.0, 0.01, 0.3, 0.4),
    "strong": _sld(7, 2000.0, 0.025, 0.5, 0.7),
    "max": _sld(0, 5000.0, 1.0, 0.5, 0.7),
}
