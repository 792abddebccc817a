"""Cross-attention with the text's keys and values computed once per text instead of once per step.

Every cross-attention layer projects the same text anew at every step. Here all those projections are one matrix,
applied to a text when its row is admitted; what the UNet then receives as `encoder_hidden_states` holds every layer's
keys and values side by side, and each layer takes its own columns. The result is the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention


@dataclass(frozen=True)
class TextProjection:
    """All cross-attention layers' key and value projections as one."""

    weight: Tensor  # (columns, dim)
    names: tuple[str, ...]  # of the UNet's parameters that it is made of, in order

    def __call__(self, text: Tensor) -> Tensor:
        """(…, tokens, dim) → (…, tokens, columns)."""
        return linear(text.to(self.weight.dtype), self.weight)

    def erased(self, tensors: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> "TextProjection":
        """The same with a variant's tensors where it has some, in the dtype and on the device of this one."""
        changed = [tensors.get(name, base[name]).to(self.weight) for name in self.names]
        return TextProjection(torch.cat(changed), self.names)


@dataclass(frozen=True)
class ProjectedTextAttention:
    """A cross-attention layer whose keys and values are already there, from `start` on."""

    start: int
    inner_dim: int

    def __call__(
        self,
        attention: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """Pixels (rows, places, dim), all layers' keys and values (rows, tokens, columns) → (rows, places, dim)."""
        rows, middle = len(hidden_states), self.start + self.inner_dim
        key = encoder_hidden_states[..., self.start : middle]
        value = encoder_hidden_states[..., middle : middle + self.inner_dim]
        query, key, value = (
            each.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
            for each in (attention.to_q(hidden_states), key, value)
        )
        attended = scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
        return attention.to_out[0](attended.transpose(1, 2).reshape(rows, -1, self.inner_dim))


def project_texts_once(unet: UNet2DConditionModel) -> TextProjection:
    """Make the UNet take projected texts, and return what projects them.

    Raises:
        ValueError: when a cross-attention layer is not of Stable Diffusion's plain kind.
    """
    weights: dict[str, Tensor] = {}
    start = 0
    processors = dict(unet.attn_processors)
    for name, layer in unet.named_modules():
        if not name.endswith("attn2"):
            continue
        if layer.to_k.bias is not None or layer.norm_cross or layer.group_norm is not None or layer.norm_q is not None:
            raise ValueError(f"the cross-attention layer {name} is of another kind than Stable Diffusion's")
        inner_dim = layer.to_k.out_features
        processors[f"{name}.processor"] = ProjectedTextAttention(start, inner_dim)
        weights |= {f"{name}.to_k.weight": layer.to_k.weight, f"{name}.to_v.weight": layer.to_v.weight}
        start += 2 * inner_dim
    unet.set_attn_processor(processors)
    return TextProjection(torch.cat([weight.detach() for weight in weights.values()]), tuple(weights))
