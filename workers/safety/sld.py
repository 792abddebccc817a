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

The presets are `contract.plan.SLD_PRESETS`. For a model that predicts v, the same rule is applied to its raw output,
as diffusers does; λ then means another distance than for ε.
"""

from typing import Any

import torch
from torch import Tensor

from contract.plan import SldParameters
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

    def combine(self, output: Tensor, step: int) -> Tensor:
        """(3, 4, h, w) → (4, h, w)."""
        p = self.parameters
        empty, prompt, safety = output
        lean = prompt - safety
        mask = torch.where(lean >= p.threshold, 0.0, (lean.abs() * p.scale).clamp(max=1.0))
        momentum = torch.zeros_like(empty) if self._momentum is None else self._momentum
        push = (safety - empty) * mask + p.momentum_scale * momentum
        self._momentum = p.momentum_beta * momentum + (1 - p.momentum_beta) * push
        is_warm = step >= p.warmup_steps
        self._record.add(push if is_warm else None, mask > 0)
        direction = prompt - empty - push if is_warm else prompt - empty
        return empty + self.guidance_scale * direction

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
