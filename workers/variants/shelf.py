"""The variants a worker serves: found in a folder, checked, loaded when first asked for, kept within a bound of memory.

A variant may be put into the folder, promoted, retired or taken away at any time; nothing is restarted for it. One that
was dropped from memory stays with the pictures that use it until they are done.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from contract.model import VariantInfo, VariantStatus
from workers.engine.model import EngineModel
from workers.engine.text_attention import TextProjection
from workers.engine.weights import ErasedWeights
from workers.variants.card import CARD, VariantCard, read_card
from workers.variants.reading import UnusableVariant, Variant, load_variant, told_of_other_base
from workers.variants.standing import promote, retire

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Loaded:
    card: VariantCard
    weights: ErasedWeights
    size_bytes: int


class VariantShelf:
    """Loads variants of one model. Any thread may call; loading is serialised and never holds up the engine.

    Args:
        folder: each of its folders with a card is a variant, called as the card says
        model: what they are variants of
        base_sha256: its `weights_sha256`
        most_bytes: memory on the device for all that is loaded
        served: variants of another status are listed only
    """

    def __init__(
        self,
        folder: Path,
        model: EngineModel,
        base_sha256: str,
        most_bytes: int,
        served: Collection[VariantStatus] = (VariantStatus.AVAILABLE,),
    ) -> None:
        self._folder = folder
        self._model = model
        self._base_sha256 = base_sha256
        self._most_bytes = most_bytes
        self._served = frozenset(served)
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # by name, the latest used last
        self._told: set[str] = set()  # folders that were found wanting and logged
        self._lock = threading.Lock()

    def listed(self) -> tuple[VariantInfo, ...]:
        """All of this model, by their cards; the weights themselves are checked when they are loaded.

        What is loaded and not served any more is dropped from memory.
        """
        cards, _ = self._look()
        if self._lock.acquire(blocking=False):  # else one is being loaded, and the next look drops them
            try:
                for name in list(self._loaded):
                    if name not in cards or cards[name].status not in self._served:
                        self._drop(name)
            finally:
                self._lock.release()
        return tuple(_info(card) for _, card in sorted(cards.items()))

    def refused(self) -> dict[str, str]:
        """What else lies in the folder: why it is none of this model's variants, by name."""
        return self._look()[1]

    def get(self, name: str) -> ErasedWeights:
        """A variant, ready for rows.

        Raises:
            UnusableVariant: there is none of that name, it is not available, damaged, of another model, or over the
                bound of memory.
        """
        with self._lock:
            try:
                card = self._card(name)
                if card.status not in self._served:
                    raise UnusableVariant(f"the variant {name!r} is {card.status.value}, which is not served")
            except UnusableVariant:
                self._drop(name)
                raise
            held = self._loaded.get(name)
            if held is None or held.card.weights_sha256 != card.weights_sha256:
                held = self._load(name)
            self._loaded[name] = held
            self._loaded.move_to_end(name)
            self._make_room()
            return held.weights

    @property
    def held_bytes(self) -> int:
        """Memory on the device of all that is loaded."""
        return sum(held.size_bytes for held in list(self._loaded.values()))

    def move(self, name: str, status: VariantStatus, reason: str | None) -> VariantInfo:
        """Promote a variant, by force where a reason is given, or retire it.

        Raises:
            UnusableVariant: there is none of that name.
            NotPromoted: it has to stay as it is.
        """
        with self._lock:
            self._card(name)
            if status is VariantStatus.AVAILABLE:
                return _info(promote(self._folder / name, reason))
            return _info(retire(self._folder / name, reason or "not said"))

    def _load(self, name: str) -> _Loaded:
        base = self._model.weights.base
        variant = load_variant(self._folder / name, base, self._base_sha256)
        weights = _on_device(variant, base, self._model.project_text)
        size = weights.project_text.weight.nbytes + sum(tensor.nbytes for tensor in weights.swapped.values())
        if size > self._most_bytes:
            raise UnusableVariant(
                f"the variant {name!r} takes {size} bytes on the device; SEEMLY_VARIANT_BYTES allows {self._most_bytes}"
            )
        log.info("variant %s is loaded: %s, %.1f MB", name, variant.kind, size / 1e6)
        return _Loaded(variant.card, weights, size)

    def _make_room(self) -> None:
        """Drop what was used longest ago; never the latest."""
        while self.held_bytes > self._most_bytes:
            self._drop(next(iter(self._loaded)))

    def _drop(self, name: str) -> None:
        if self._loaded.pop(name, None) is not None:
            log.info("variant %s is dropped from memory", name)

    def _card(self, name: str) -> VariantCard:
        cards, refused = self._look()
        if name in cards:
            return cards[name]
        if name in refused:
            raise UnusableVariant(f"the variant {name!r} {refused[name]}")
        raise UnusableVariant(f"there is no variant {name!r} of this model in {self._folder}")

    def _look(self) -> tuple[dict[str, VariantCard], dict[str, str]]:
        """Cards of this model's variants, by name, and why others are none: each of those is logged once."""
        cards, refused = {}, {}
        for file in sorted(self._folder.glob(f"*/{CARD}")):
            name = file.parent.name
            try:
                card = read_card(file.parent)
            except (OSError, ValueError) as error:
                refused[name] = f"has no readable card: {type(error).__name__}"
                continue
            if card.name != name:
                refused[name] = f"says of itself that it is {card.name!r}; folder and variant must have one name"
            elif told := told_of_other_base(card, self._base_sha256):
                refused[name] = told
            else:
                cards[name] = card
        for name, why in refused.items():
            if (message := f"{self._folder / name} {why}; it is not served") not in self._told:
                self._told.add(message)
                log.warning("%s", message)
        return cards, refused


def _on_device(variant: Variant, base: Mapping[str, Tensor], project_text: TextProjection) -> ErasedWeights:
    """The variant's keys and values as a projection of texts, and the rest as the UNet takes it."""
    tensors = variant.tensors
    swapped = {
        name: torch.empty_like(base[name]).copy_(tensor)  # device, dtype and memory format of the tensor it stands for
        for name, tensor in tensors.items()
        if name not in project_text.names
    }
    reprojects = any(name in project_text.names for name in tensors)
    return ErasedWeights(
        name=variant.name,
        project_text=project_text.erased(tensors, base) if reprojects else project_text,
        **({"swapped": swapped} if swapped else {}),
        description={
            "method": "erased",
            "variant": variant.name,
            "recipe": variant.card.method,
            "concepts": list(variant.card.concepts),
            "changes": variant.kind.value,
            "weights_sha256": variant.card.weights_sha256,
        },
    )


def _info(card: VariantCard) -> VariantInfo:
    return VariantInfo(
        name=card.name,
        recipe=card.method,
        concepts=card.concepts,
        preserved=card.preserved,
        changes=card.kind.value,
        weights_sha256=card.weights_sha256,
        status=card.status,
        effects=card.effects,
        gate=card.gate,
    )
