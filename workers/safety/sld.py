"""Safe Latent Diffusion (Schramowski et al. 2023, arXiv:2211.05105, eqs. 3-8).

    μ = 0 where ε_p − ε_s ≥ λ, else min(1, |ε_p − ε_s| · s_S)      (eq. 6, element by element)
    γ = (ε_s − ε_u) · μ + s_m · ν                                  (eqs. 4, 7)
    ν ← β · ν + (1 − β) · γ                                        (eq. 8; ν = 0 at first, updated in warm-up too)
    ε = ε_u + s_g · ((ε_p − ε_u) − γ)   from the warm-up's end on, else classifier-free guidance   (eq. 3)

| symbol | variable |
|---|---|
| ε_u, ε_p, ε_s: noise predicted for the empty prompt, the prompt, the safety concept | empty, prompt, safety |
| μ | mask |
| γ | push |
| ν | momentum |
| s_g | guidance_scale |
| s_S, λ, s_m, β | scale, threshold, momentum_scale, momentum_beta |

While s_m = 0, ν never matters: the safety concept's branch is left out of the warm-up.

The presets are `contract.sld.PRESETS`. For a model that predicts v, the same rule is applied to its raw output,
as diffusers does; λ then means another distance than for ε.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contract.sld import SldParameters
from contract.steps import GuidanceRecord
from workers.safety.protocol import Conditioning, StepRecord


class SafeLatentDiffusion:
    """Guidance by the prompt, and away from the safety concept where the prompt leans towards it."""

    prompt_branch = 1

    def __init__(self, conditioning: Conditioning, parameters: SldParameters, concept_text: str) -> None:
        self.parameters = parameters
        self.concept_text = concept_text
        self.guidance_scale = conditioning.guidance_scale
        self.texts: tuple[str, ...] = (conditioning.negative_prompt, conditioning.prompt, self.concept_text)
        self._momentum: Tensor | None = None
        self._record = StepRecord()

    def branches(self, step: int) -> tuple[int, ...]:
        """The safety concept is needed where it pushes, and before that where its momentum is carried on."""
        return (0, 1, 2) if self._is_warm(step) or self.parameters.momentum_scale else (0, 1)

    def combine(self, output: Sequence[Tensor], step: int) -> Tensor:
        """3 or, in a warm-up without momentum, 2 of (4, h, w) → (4, h, w)."""
        empty, prompt, *safety = output
        push, mask = self._push(empty, prompt, *safety) if safety else (None, None)
        if not self._is_warm(step):
            push = None
        self._record.add(push, None if mask is None else mask > 0)
        direction = prompt - empty if push is None else prompt - empty - push
        return empty + self.guidance_scale * direction

    def _push(self, empty: Tensor, prompt: Tensor, safety: Tensor) -> tuple[Tensor, Tensor]:
        """The push and its mask, (4, h, w) each; carries the momentum on."""
        p = self.parameters
        lean = prompt - safety
        mask = torch.where(lean >= p.threshold, 0.0, (lean.abs() * p.scale).clamp(max=1.0))
        momentum = torch.zeros_like(empty) if self._momentum is None else self._momentum
        push = (safety - empty) * mask + p.momentum_scale * momentum
        self._momentum = p.momentum_beta * momentum + (1 - p.momentum_beta) * push
        return push, mask

    def _is_warm(self, step: int) -> bool:
        return step >= self.parameters.warmup_steps

    def describe(self) -> dict[str, Any]:
        """Every parameter, and the concept text as it was encoded."""
        return {
            "method": "sld",
            "guidance_scale": self.guidance_scale,
            "concept_text": self.concept_text,
            **self.parameters.model_dump(),
        }

    def record(self) -> GuidanceRecord:
        """Per step, how strong the push was and on what share of the latent."""
        return self._record.read()
