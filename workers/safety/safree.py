"""SAFREE (Yoon et al. 2024, arXiv:2410.12761): steers the prompt's embedding off the concepts' subspace, no training.

    P(E) = E · pinv(EᵀE) · Eᵀ                             projection onto the span of E's columns
    d_i = ‖(I − P_C) · m_i‖                               m_i: the prompt's pooled embedding with token i masked
    token i is a trigger where d_i ≥ (1 + α) · mean of the other d
    e_i ← (I − P_C) · P_M · e_i   for trigger tokens      M: all m_i as columns
    N = round(10 · sigmoid(5 · (10 β − 5.333)))           β = 1 − mean cos(e_i, (I − P_C) · P_M · e_i)
    the new embedding acts for the first N steps, the old one afterwards

β asks how far the whole prompt would move: the mean runs over the begin mark, all words and the end mark, triggers or
not, as in the authors' code. Were it taken over what is really changed, a prompt of one trigger among many words would
never reach the 0.53 at which half of the steps are steered. The authors' code acts for one step more than its own N.

| symbol | variable |
|---|---|
| C, the concepts' pooled embeddings as columns | concepts |
| M | masked |
| e_i | embedding |
| α | TRIGGER_MARGIN |
| N | acting_steps |

A prompt of one token has no others to compare with: its token is a trigger when it lies nearer to the concepts'
subspace than to what is orthogonal to it. An empty prompt has nothing to steer: N = 0. Concepts that span the whole
space would leave nothing of any prompt; they are refused. The method's re-attention in the UNet's latents is not part
of this.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from workers.safety.protocol import PromptTokens

TRIGGER_MARGIN = 0.01
MOST_STEPS = 10


class SteeredPrompt:
    """A prompt's steered embedding and how long it acts.

    Raises:
        FloatingPointError: an embedding is not finite; every comparison with it would say: no trigger.
        ValueError: the concepts span the whole space.
    """

    def __init__(self, prompt: PromptTokens, concepts: Tensor, concept_texts: Sequence[str]) -> None:
        self.concept_texts = tuple(concept_texts)
        exact = torch.promote_types(prompt.embedding.dtype, torch.float32)  # no pseudo-inverse in half precision
        prompt = PromptTokens(prompt.embedding.to(exact), prompt.masked.to(exact))
        concepts = concepts.to(exact)
        if not all(torch.isfinite(each).all() for each in (prompt.embedding, prompt.masked, concepts)):
            raise FloatingPointError("an embedding of the prompt or of a concept is not finite")
        if torch.linalg.matrix_rank(concepts) >= concepts.shape[1] - 1:  # the encoder's last norm takes one dimension
            raise ValueError(f"{len(concepts)} concepts span all that this model's prompts can say; name fewer")
        self.triggers = trigger_words(prompt.masked, concepts)  # (words,), bool
        self._has_triggers = bool(self.triggers.any())
        self._plain = prompt.embedding
        projected = project(prompt, concepts)
        self._steered = steer(prompt.embedding, projected, self.triggers)
        text = slice(0, len(self.triggers) + 2)  # the begin mark, the words, the end mark
        drift = 1 - cosine_similarity(self._plain[text], projected[text], dim=-1).mean()
        steps = round(float(MOST_STEPS * torch.sigmoid(5 * (10 * drift - 5.333))))
        self.acting_steps = steps if len(self.triggers) else 0

    def is_acting(self, step: int) -> bool:
        """For the first N steps, where a word is a trigger at all."""
        return self._has_triggers and step < self.acting_steps

    def embedding(self, step: int) -> Tensor:
        """The prompt's conditioning at a step, (tokens, dim)."""
        return self._steered if step < self.acting_steps else self._plain

    def describe(self) -> dict[str, Any]:
        """The concepts, which words were steered (by place in the prompt, from 0), and for how many steps."""
        return {
            "method": "safree",
            "concepts": list(self.concept_texts),
            "steered_words": self.triggers.nonzero().flatten().tolist(),
            "acting_steps": self.acting_steps,
        }


def projection(columns: Tensor) -> Tensor:
    """Onto the span of the columns: (dim, vectors) → (dim, dim)."""
    return columns @ torch.linalg.pinv(columns.T @ columns, hermitian=True) @ columns.T


def trigger_words(masked: Tensor, concepts: Tensor) -> Tensor:
    """Which words carry the concepts, (words,), from masked (words, dim) and concepts (concepts, dim)."""
    onto = projection(concepts.T)
    distances = (masked - masked @ onto).norm(dim=1)
    if len(distances) == 1:
        return (masked @ onto).norm(dim=1) > distances
    others = (distances.sum() - distances) / (len(distances) - 1)
    return distances >= (1 + TRIGGER_MARGIN) * others


def project(prompt: PromptTokens, concepts: Tensor) -> Tensor:
    """Every token, (tokens, dim), projected into the prompt's own space and off the concepts."""
    inside = prompt.embedding @ projection(prompt.masked.T)
    return inside - inside @ projection(concepts.T)


def steer(embedding: Tensor, projected: Tensor, triggers: Tensor) -> Tensor:
    """The prompt's embedding, (tokens, dim), with the projected one in the place of its trigger words."""
    is_trigger = torch.zeros(len(embedding), dtype=torch.bool, device=triggers.device)
    is_trigger[1 : 1 + len(triggers)] = triggers
    return torch.where(is_trigger[:, None], projected, embedding)
