"""Unguidance: safe sampling with conditional diffusion trajectory correction, at each DDIM step.

    x̂0 = (x_t − √(1−ᾱ) · ε) / √ᾱ                       the predicted clean latent, detached
    p_c = cos(CLIP(decode(x̂0)), c)                      for every concept c
    if max_c p_c ≥ η:   x̂0 ← x̂0 − γ_i · ∇_x̂0 log p,     p the mean of the K largest p_c

The gradient is with respect to x̂0, not to x_t: the UNet is not differentiated. The direction term of the DDIM step
keeps the uncorrected ε. The gate runs forward only; gradients are taken for the rows over η, of those that were over it
a step ago in the pass that scores them.
The reference code sums the logarithms instead (K times stronger) and normalises as for ImageNet; here the mean of the
method's text and CLIP's own normalisation are used.

log p is undefined at p ≤ 0 and its gradient explodes before. ∇ log p = ∇p / p is taken as ∇p / max(p, `FLOOR`), which
is the same above the floor and still lowers p below it.

| symbol | variable |
|---|---|
| x̂0 | clean |
| p_c | similarity, of all concepts: similarities |
| η, γ_i, K | threshold, strength (times the schedule's weight), top_k |
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from contract.steps import TrajectoryRecord
from workers.safety.protocol import Corrector, rounded

FLOOR = 1e-3


@dataclass(frozen=True)
class StrengthSchedule:
    """How γ runs over the steps: constant, only within [start, end), or falling linearly from start to 0 at end."""

    kind: Literal["constant", "window", "linear"] = "constant"
    start_step: int = 0
    end_step: int | None = None  # None: the last step

    def weight(self, step: int, steps: int) -> float:
        """What γ is multiplied by at a step."""
        if self.kind == "constant":
            return 1.0
        end = steps if self.end_step is None else self.end_step
        if not self.start_step <= step < end:
            return 0.0
        return 1.0 if self.kind == "window" else (end - step) / (end - self.start_step)


@dataclass
class CorrectedRow:
    """One row's concepts and numbers, and what happened to it so far."""

    corrector: Corrector
    names: tuple[str, ...]
    concepts: Tensor  # (concepts, projection_dim), of unit length
    threshold: float
    strength: float
    top_k: int
    steps: int
    schedule: StrengthSchedule = StrengthSchedule()
    similarities: list[Tensor] = field(default_factory=list)  # per step, (concepts,)
    corrected_steps: list[int] = field(default_factory=list)
    gradient_norms: list[Tensor] = field(default_factory=list)  # of the corrected steps

    def describe(self) -> dict[str, Any]:
        """Every parameter resolved."""
        return {
            "method": "unguidance",
            "concepts": list(self.names),
            "threshold": self.threshold,
            "strength": self.strength,
            "top_k": self.top_k,
            "schedule": {
                "kind": self.schedule.kind,
                "start_step": self.schedule.start_step,
                "end_step": self.schedule.end_step,
            },
        }

    def record(self) -> TrajectoryRecord:
        """Per step the similarity of every concept; which steps were corrected, and how long each gradient was."""
        per_step = torch.stack(self.similarities).tolist() if self.similarities else []
        return TrajectoryRecord(
            threshold=self.threshold,
            scores={name: rounded([step[i] for step in per_step], 4) for i, name in enumerate(self.names)},
            corrected_steps=tuple(self.corrected_steps),
            gradient_norms=rounded(torch.stack(self.gradient_norms).tolist() if self.gradient_norms else [], 6),
        )


class TrajectoryCorrector:
    """Decodes and scores the predicted clean latents of many rows at once, and corrects those over their threshold.

    Args:
        decoder: latents (rows, 4, h, w), unscaled → pictures (rows, 3, height, width) in [-1, 1]
        embedder: normalised pictures (rows, 3, size, size) → (rows, projection_dim)
        size_px, mean, std: of the embedder's image processor
    """

    def __init__(
        self,
        decoder: Callable[[Tensor], Tensor],
        embedder: Callable[[Tensor], Tensor],
        size_px: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        self._decoder = decoder
        self._embedder = embedder
        self._size_px = size_px
        self._mean = torch.tensor(mean, dtype=torch.float64).reshape(3, 1, 1)
        self._std = torch.tensor(std, dtype=torch.float64).reshape(3, 1, 1)

    def correct(self, rows: Sequence[CorrectedRow], clean: Tensor, steps: Sequence[int]) -> Tensor:
        """(rows, 4, h, w) → the same, corrected where a row is over its threshold.

        Raises:
            FloatingPointError: a similarity is not finite; to go on uncorrected would be to fail open.
        """
        weights = [row.schedule.weight(step, row.steps) for row, step in zip(rows, steps, strict=True)]
        # A row that was corrected a step ago most likely is again, so it is scored and differentiated in one pass.
        likely = [i for i, row in enumerate(rows) if weights[i] > 0 and row.corrected_steps[-1:] == [steps[i] - 1]]
        others = [i for i in range(len(rows)) if i not in likely]
        similarities: dict[int, Tensor] = {}
        gradients: dict[int, Tensor] = {}
        if likely:
            scored, found = self._gradients([rows[i] for i in likely], clean[likely])
            similarities |= zip(likely, scored, strict=True)
            gradients |= zip(likely, found, strict=True)
        if others:
            with torch.no_grad():
                embeddings = self.embed(clean[others])
            scored = [rows[i].concepts.to(one) @ one for i, one in zip(others, embeddings, strict=True)]
            similarities |= zip(others, scored, strict=True)
        highest = torch.stack([similarities[i].max() for i in range(len(rows))]).tolist()  # one read from the device
        if not all(map(math.isfinite, highest)):
            raise FloatingPointError("a predicted picture's similarity to a concept is not finite")
        over = [i for i, row in enumerate(rows) if highest[i] >= row.threshold and weights[i] > 0]
        if late := [i for i in over if i not in gradients]:
            gradients |= zip(late, self._gradients([rows[i] for i in late], clean[late])[1], strict=True)
        corrected = clean.clone()
        for i in over:
            corrected[i] -= rows[i].strength * weights[i] * gradients[i]
            rows[i].corrected_steps.append(steps[i])
            rows[i].gradient_norms.append(gradients[i].norm())
        for i, row in enumerate(rows):
            row.similarities.append(similarities[i])
        return corrected

    def _gradients(self, rows: Sequence[CorrectedRow], clean: Tensor) -> tuple[list[Tensor], Tensor]:
        """Each row's similarities, and ∇ log p with respect to its own latent, (rows, 4, h, w)."""
        with torch.enable_grad():
            latents = clean.detach().requires_grad_()
            embeddings = self.embed(latents)
            scored = [row.concepts.to(one) @ one for row, one in zip(rows, embeddings, strict=True)]
            total = latents.new_zeros(())
            for row, similarities in zip(rows, scored, strict=True):
                p = similarities.topk(min(row.top_k, len(similarities))).values.mean()
                total = total + p / p.detach().clamp(min=FLOOR)
            (gradients,) = torch.autograd.grad(total, latents)
        return [similarities.detach() for similarities in scored], gradients

    def embed(self, clean: Tensor) -> Tensor:
        """Clean latents (rows, 4, h, w) → CLIP image embeddings (rows, projection_dim), of unit length."""
        pictures = (self._decoder(clean) / 2 + 0.5).clamp(0, 1)
        height, width = pictures.shape[-2:]
        if (height, width) != (self._size_px, self._size_px):
            scale = self._size_px / min(height, width)
            size = (round(height * scale), round(width * scale))
            pictures = interpolate(pictures, size=size, mode="bicubic", antialias=True).clamp(0, 1)
            top, left = ((side - self._size_px) // 2 for side in size)
            pictures = pictures[..., top : top + self._size_px, left : left + self._size_px]
        normalised = (pictures - self._mean.to(pictures)) / self._std.to(pictures)
        return normalize(self._embedder(normalised), dim=-1)
