"""The variants a worker serves: found in a folder, checked, loaded when first asked for, kept within a bound of memory.

A variant may be put into the folder, promoted, retired or taken away at any time; nothing is restarted for it. One that
was dropped from memory stays with the pictures that use it until they are done.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping
from pathlib import Path
from weakref import WeakValueDictionary

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


class NoRoom(UnusableVariant):
    """Pictures that are being made leave no memory for a variant; it can be loaded once they are done."""


class VariantShelf:
    """Loads variants of one model. Any thread may call; loading is serialised and never holds up the engine.

    Args:
        folder: each of its folders with a card is a variant, called as the card says
        model: what they are variants of
        base_sha256: its `weights_sha256`
        most_bytes: memory on the device for all that is loaded, also for what only pictures in flight still use
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
        self._loaded: OrderedDict[str, ErasedWeights] = OrderedDict()  # by name, the latest used last
        self._alive: WeakValueDictionary[tuple[str, str], ErasedWeights] = WeakValueDictionary()  # by name and hash
        self._told: set[str] = set()  # folders that were found wanting and logged
        self._lock = threading.Lock()

    def listed(self) -> tuple[VariantInfo, ...]:
        """All of this model, by their cards; the weights themselves are checked when they are loaded.

        What is loaded and not served any more, or made anew, is dropped from memory.
        """
        cards, _ = self._look()
        if self._lock.acquire(blocking=False):  # else one is being loaded, and the next look drops them
            try:
                for name, weights in list(self._loaded.items()):
                    card = cards.get(name)
                    served = card and card.status in self._served and self._alive.get((name, card.weights_sha256))
                    if served is not weights:
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
            UnusableVariant: there is none of that name, it is not available, cannot be read, is damaged, of another
                model, or over the bound of memory.
            NoRoom: it is so for as long as other pictures are being made.
        """
        with self._lock:
            try:
                card = self._card(name)
                if card.status not in self._served:
                    raise UnusableVariant(f"the variant {name!r} is {card.status.value}, which is not served")
            except UnusableVariant:
                self._drop(name)
                raise
            key = name, card.weights_sha256
            if (weights := self._alive.get(key)) is None:
                self._drop(name)
                self._alive[key] = weights = self._load(card)
            self._loaded[name] = weights
            self._loaded.move_to_end(name)
            return weights

    @property
    def held_bytes(self) -> int:
        """Memory on the device of all that is loaded, and of what pictures in flight still use."""
        alive = [weights for reference in self._alive.valuerefs() if (weights := reference()) is not None]
        return sum(self._size_of(weights) for weights in alive)

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

    def _load(self, card: VariantCard) -> ErasedWeights:
        self._make_room(card)
        try:
            weights = _on_device(self._read(card.name), self._model.weights.base, self._model.project_text)
        except torch.AcceleratorError:  # the device is lost, for whatever variant
            raise
        except (OSError, RuntimeError, MemoryError) as error:
            why = (str(error).splitlines() or [""])[0]
            raise UnusableVariant(
                f"the variant {card.name!r} cannot be loaded: {type(error).__name__} {why}"
            ) from error
        log.info("variant %s is loaded: %s, %.1f MB", card.name, card.kind, self._size_of(weights) / 1e6)
        return weights

    def _read(self, name: str) -> Variant:
        """The variant; why it cannot be used is for whoever asked, whom this machine's folders are not told."""
        try:
            return load_variant(self._folder / name, self._model.weights.base, self._base_sha256)
        except UnusableVariant as error:
            raise UnusableVariant(str(error).replace(f"{self._folder}/", "")) from error

    def _make_room(self, card: VariantCard) -> None:
        """Drop what was used longest ago until this variant fits beside the rest."""
        base, project_text = self._model.weights.base, self._model.project_text
        changed = set(card.tensors)
        size = sum(base[name].nbytes for name in changed & base.keys() - set(project_text.names))
        if changed & set(project_text.names):
            size += project_text.weight.nbytes
        told = f"the variant {card.name!r} takes {size} bytes on the device; SEEMLY_VARIANT_BYTES allows"
        if size > self._most_bytes:
            raise UnusableVariant(f"{told} {self._most_bytes}")
        while self.held_bytes + size > self._most_bytes and self._loaded:
            self._drop(next(iter(self._loaded)))
        if (held := self.held_bytes) + size > self._most_bytes:
            raise NoRoom(f"{told} {self._most_bytes}, of which pictures that are being made hold {held}: ask again")

    def _size_of(self, weights: ErasedWeights) -> int:
        own = 0 if weights.project_text is self._model.project_text else weights.project_text.weight.nbytes
        return own + sum(tensor.nbytes for tensor in weights.swapped.values())

    def _drop(self, name: str) -> None:
        if self._loaded.pop(name, None) is not None:
            log.info("variant %s is dropped from memory", name)

    def _card(self, name: str) -> VariantCard:
        cards, refused = self._look()
        if name in cards:
            return cards[name]
        if name in refused:
            raise UnusableVariant(f"the variant {name!r} {refused[name]}")
        raise UnusableVariant(f"there is no variant {name!r} of this model in {self._folder.name}/")

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
