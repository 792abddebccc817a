"""Erased weights in the engine: rows of several variants of one UNet, in as few calls as may be.

A variant that only changes how a text becomes keys and values costs nothing: a row's text is projected with the
variant's own matrices when the row is admitted, and the row then shares its calls with rows of the base model and of
every other such variant. What else a variant changes takes the base's place for a call of its own, and every variant
gets its call at every step, so none waits for another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor
from torch.nn import Module

from workers.engine.text_attention import TextProjection

NOTHING_SWAPPED: Mapping[str, Tensor] = MappingProxyType({})


@dataclass(frozen=True, eq=False)
class ErasedWeights:
    """A variant, on the UNet's device and in its dtype."""

    name: str
    project_text: TextProjection
    swapped: Mapping[str, Tensor] = field(
        default_factory=lambda: NOTHING_SWAPPED
    )  # the UNet's other parameters that it changes
    description: dict[str, Any] = field(default_factory=dict)  # for `safety.applied`


class SwappedWeights:
    """A UNet whose parameters may be exchanged between two calls. Only references move, no values."""

    def __init__(self, unet: Module) -> None:
        self._parameters = dict(unet.named_parameters())
        self._base = {name: parameter.data for name, parameter in self._parameters.items()}
        self._swapped = NOTHING_SWAPPED

    @property
    def base(self) -> Mapping[str, Tensor]:
        """The model's own parameters, whatever is in their place now."""
        return self._base

    def put(self, swapped: Mapping[str, Tensor]) -> None:
        """Have the UNet compute with these in place of its own, and with its own for the rest; all of them or none."""
        if swapped is self._swapped:
            return
        try:
            for name in self._swapped.keys() - swapped.keys():
                self._parameters[name].data = self._base[name]
            for name, tensor in swapped.items():
                self._parameters[name].data = tensor
        except Exception:
            for name, tensor in self._base.items():
                self._parameters[name].data = tensor
            self._swapped = NOTHING_SWAPPED
            raise
        self._swapped = swapped
