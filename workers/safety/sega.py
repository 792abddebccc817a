"""SEGA, semantic guidance (Brack et al. 2023, arXiv:2301.12247), as in diffusers' SemanticStableDiffusionPipeline.

    v_c = ±s_c · (ε_c − ε_u)                          − for a concept removed, + for one added
    v_c ← v_c where |v_c| ≥ its λ_c-quantile, else 0  per channel over height × width, the quantile in float32
    V = Σ_c v_c + s_m · ν                             over the concepts that are not past their cool-down
    ν ← β · ν + (1 − β) · V                           throughout, warm-up included
    ε = ε_u + s_g · (ε_p − ε_u) + V                   once every concept is past its warm-up
    ε = ε_u + s_g · (ε_p − ε_u) + mean v_c            over those past it, while only some are; no momentum

| symbol | variable |
|---|---|
| ε_u, ε_p, ε_c: noise predicted for the empty prompt, the prompt, a concept | empty, prompt, edits |
| s_g, s_c, λ_c | guidance_scale, scale, threshold |
| ν, s_m, β | momentum, momentum_scale, momentum_beta |
| V | push |

A concept's branch is left out after its cool-down, and before its warm-up's end where s_m = 0, as ν never matters then.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from contract.steering import SegaConcept
from contract.steps import GuidanceRecord
from workers.safety.protocol import Conditioning, StepRecord


class SemanticGuidance:
    """Several concepts removed or added at once, each with its own strength, threshold, warm-up and cool-down."""

    prompt_branch = 1

    def __init__(
        self,
        conditioning: Conditioning,
        concepts: Sequence[SegaConcept],
        momentum_scale: float,
        momentum_beta: float,
    ) -> None:
        self.concepts = tuple(concepts)
        self.momentum_scale = momentum_scale
        self.momentum_beta = momentum_beta
        self.guidance_scale = conditioning.guidance_scale
        self.texts: tuple[str, ...] = (
            conditioning.negative_prompt,
            conditioning.prompt,
            *(concept.text for concept in self.concepts),
        )
        self._momentum: Tensor | None = None
        self._record = StepRecord()

    def branches(self, step: int) -> tuple[int, ...]:
        """Empty prompt, prompt, and every concept that pushes or whose momentum is carried on."""
        return 0, 1, *(2 + i for i, concept in enumerate(self.concepts) if self._counts(concept, step))

    def combine(self, output: Sequence[Tensor], step: int) -> Tensor:
        """2 and one for each concept that counts, (4, h, w) each → (4, h, w)."""
        empty, prompt, *edits = output
        guided = empty + self.guidance_scale * (prompt - empty)
        momentum = torch.zeros_like(empty) if self._momentum is None else self._momentum
        acting = [
            (concept, _edit(concept, edit - empty))
            for concept, edit in zip((c for c in self.concepts if self._counts(c, step)), edits, strict=True)
        ]
        total = sum((vector for _, vector in acting), start=torch.zeros_like(empty)) + self.momentum_scale * momentum
        self._momentum = self.momentum_beta * momentum + (1 - self.momentum_beta) * total
        warm = [vector for concept, vector in acting if step >= concept.warmup_steps]
        push: Tensor | None = None
        if all(step >= c.warmup_steps for c in self.concepts):
            push = total
        elif warm:
            push = torch.stack(warm).mean(dim=0)
        self._record.add(push, _any_over(warm, empty))
        return guided if push is None else guided + push

    def _counts(self, concept: SegaConcept, step: int) -> bool:
        is_over = concept.cooldown_step is not None and step >= concept.cooldown_step
        return not is_over and (step >= concept.warmup_steps or self.momentum_scale > 0)

    def describe(self) -> dict[str, Any]:
        """Every parameter of every concept."""
        return {
            "method": "sega",
            "guidance_scale": self.guidance_scale,
            "concepts": [concept.model_dump() for concept in self.concepts],
            "momentum_scale": self.momentum_scale,
            "momentum_beta": self.momentum_beta,
        }

    def record(self) -> GuidanceRecord:
        """Per step, how strong the push was and on what share of the latent."""
        return self._record.read()


def _any_over(vectors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Where any concept acts of itself. The momentum, which stays on all it ever touched, is left aside."""
    over = torch.zeros_like(like, dtype=torch.bool)
    for vector in vectors:
        over |= vector != 0
    return over


def _edit(concept: SegaConcept, direction: Tensor) -> Tensor:
    """One concept's share of the push, (4, h, w), from ε_c − ε_u."""
    sign = -1 if concept.direction == "remove" else 1
    vector = sign * direction * concept.scale
    magnitude = vector.abs()
    quantile = torch.quantile(magnitude.flatten(start_dim=1).float(), concept.threshold, dim=1).to(vector.dtype)
    # So written, what is not a number stays one and is found out with the picture, instead of switching the edit off.
    return torch.where(magnitude < quantile[:, None, None], 0.0, vector)
