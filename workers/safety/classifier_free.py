"""Classifier-free guidance (Ho and Salimans 2022, eq. 6), the guidance of a plan without one of its own.

    ε = ε_u + s_g · (ε_p − ε_u)

| symbol | variable |
|---|---|
| ε_u, the noise predicted for the empty (or the user's negative) prompt | empty |
| ε_p, for the prompt | prompt |
| s_g | scale |

At s_g ≤ 1 only the prompt's branch runs, as in diffusers' pipelines.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from workers.safety.protocol import Conditioning


class ClassifierFreeGuidance:
    """Guidance by the prompt against the empty prompt."""

    def __init__(self, conditioning: Conditioning) -> None:
        self.scale = conditioning.guidance_scale
        self.is_guided = self.scale > 1
        prompts = (conditioning.negative_prompt, conditioning.prompt) if self.is_guided else (conditioning.prompt,)
        self.texts: tuple[str, ...] = prompts
        self.prompt_branch = len(prompts) - 1

    def branches(self, step: int) -> tuple[int, ...]:
        """All: the empty prompt is no text of an unguided row."""
        return tuple(range(len(self.texts)))

    def combine(self, output: Sequence[Tensor], step: int) -> Tensor:
        """2 or 1 of (4, h, w) → (4, h, w)."""
        if not self.is_guided:
            return output[0]
        empty, prompt = output
        return empty + self.scale * (prompt - empty)

    def describe(self) -> dict[str, Any]:
        """The scale, and whether the empty branch ran at all."""
        return {"method": "classifier-free", "guidance_scale": self.scale, "is_guided": self.is_guided}

    def record(self) -> None:
        """Nothing pushes."""
        return
