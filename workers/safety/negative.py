"""Negative prompt: the concepts stand in for the empty prompt of classifier-free guidance.

    ε = ε_n + s_g · (ε_p − ε_n)

| symbol | variable |
|---|---|
| ε_n, the noise predicted for the user's negative prompt joined with the concepts | negative |
| ε_p, for the prompt | prompt |
| s_g | scale |
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from workers.safety.protocol import Conditioning


class NegativePrompt:
    """Guidance away from the concepts, at no extra UNet row."""

    prompt_branch = 1

    def __init__(self, conditioning: Conditioning, concept_text: str) -> None:
        self.scale = conditioning.guidance_scale
        negative = ", ".join(filter(None, (conditioning.negative_prompt, concept_text)))
        self.texts: tuple[str, ...] = (negative, conditioning.prompt)

    def branches(self, step: int) -> tuple[int, ...]:
        """Both."""
        return 0, 1

    def combine(self, output: Sequence[Tensor], step: int) -> Tensor:
        """2 of (4, h, w) → (4, h, w)."""
        negative, prompt = output
        return negative + self.scale * (prompt - negative)

    def describe(self) -> dict[str, Any]:
        """The scale and the whole text that stood in for the empty prompt."""
        return {"method": "negative", "guidance_scale": self.scale, "negative_prompt": self.texts[0]}

    def record(self) -> None:
        """The push cannot be told from the guidance."""
        return
