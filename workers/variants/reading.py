"""Variants read with every check: ours with a card, and what others publish.

    a folder with card.json           this project's format: variant.safetensors holds the changed tensors only
    a diffusers UNet folder           config.json and diffusion_pytorch_model*.safetensors, or a folder with a unet/
    a .safetensors file               part of a UNet's state, as the authors of ESD publish it (`<module>.weight`)

Nothing else: a pickle runs code when it is read. A variant with a card must be of the very model it is laid over; of
the others only the names and shapes can be compared.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from workers.variants.card import CARD, WEIGHTS, Base, Kind, VariantCard, kind_of, read_card

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
PICKLED_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # a zip as torch writes it, bare
UNET_FILE = "diffusion_pytorch_model"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMED = 3  # tensors named in an error, of possibly hundreds


class UnusableVariant(ValueError):
    """Weights that cannot be laid over the model; the message says why and what to do."""


@dataclass(frozen=True)
class Variant:
    """Checked weights: every tensor has a name and shape of the base's UNet and is finite."""

    card: VariantCard
    tensors: Mapping[str, Tensor]  # names of the UNet's state → new values

    @property
    def name(self) -> str:
        """What requests call it."""
        return self.card.name

    @property
    def kind(self) -> Kind:
        """Which part of the UNet it changes."""
        return self.card.kind

    @property
    def size_bytes(self) -> int:
        """Memory its tensors take as they are stored."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


def load_variant(path: Path, base: Mapping[str, Tensor], base_sha256: str, name: str | None = None) -> Variant:
    """Read a variant and check it against the model it is for.

    Args:
        path: a folder or file as described above
        base: the state of the model's UNet, `unet.state_dict()`
        base_sha256: the model's `weights_sha256`
        name: of a variant without a card; null: made from the file's name

    Raises:
        UnusableVariant: not there, not safetensors, damaged, of another model, not finite.
    """
    if path.is_dir() and (path / CARD).exists():
        return _with_card(path, base, base_sha256)
    if path.is_dir():
        folder = path / "unet" if (path / "unet").is_dir() else path
        tensors = _changed(_whole_unet(folder, base), base, folder)
    else:
        tensors = _parsed(_content(path), path)
        _check(tensors, base, path)
    kept = {key: tensors[key] for key in sorted(tensors)}
    card = VariantCard(
        name=name or name_from(path),
        method="imported",
        base=Base(name="not stated", weights_sha256=base_sha256),
        kind=kind_of(tuple(kept)),
        tensors=tuple(kept),
        dtype=_dtypes(kept),
        weights_sha256=_hash_tensors(kept),
    )
    return Variant(card, kept)


def told_of_other_base(card: VariantCard, base_sha256: str) -> str | None:
    """Why a variant is not of the model with this hash; None when it is."""
    if card.base.weights_sha256 == base_sha256:
        return None
    return (
        f"was made from {card.base.name!r} with weights {card.base.weights_sha256[:12]}…, this model's are"
        f" {base_sha256[:12]}…: make it anew from this model (seemly erase), or serve its base"
    )


def _with_card(folder: Path, base: Mapping[str, Tensor], base_sha256: str) -> Variant:
    try:
        card = read_card(folder)
    except (OSError, ValueError) as error:
        raise UnusableVariant(f"{folder / CARD} is no card of a variant as this version reads it: {error}") from error
    if told := told_of_other_base(card, base_sha256):
        raise UnusableVariant(f"the variant {card.name!r} {told}")
    if card.name != (here := Path(os.path.abspath(folder)).name):  # of a link its own, as the shelf lists it
        raise UnusableVariant(f"{folder} says of itself that it is {card.name!r}, not {here!r}: give both one name")
    file = folder / WEIGHTS
    content = _content(file)
    tensors = _parsed(content, file)
    if tuple(sorted(tensors)) != card.tensors or kind_of(card.tensors) is not card.kind:
        raise UnusableVariant(f"{file} holds other tensors than {CARD} names: fetch or make the variant anew")
    _check(tensors, base, file)
    if hashlib.sha256(content).hexdigest() != card.weights_sha256:
        raise UnusableVariant(f"{file} is not the file that {CARD} was written for: fetch or make the variant anew")
    return Variant(card, tensors)


def _whole_unet(folder: Path, base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors of a diffusers UNet folder, sharded or not."""
    index = folder / f"{UNET_FILE}.safetensors.index.json"
    if index.is_file():
        try:
            shards = {str(shard) for shard in json.loads(index.read_bytes())["weight_map"].values()}
        except (ValueError, LookupError, AttributeError) as error:
            raise UnusableVariant(f"{index} is no index of shards: fetch it again") from error
        if any(Path(shard).name != shard for shard in shards):
            raise UnusableVariant(f"{index} names files outside its folder: it is not as diffusers writes it")
        files = [folder / shard for shard in sorted(shards)]
    else:
        # The plain file where there is one, else a variant of it, such as fp16.
        files = sorted(folder.glob(f"{UNET_FILE}*.safetensors"), key=lambda file: len(file.name))[:1]
    if not files:
        _refuse_pickles(folder)
        raise UnusableVariant(
            f"{folder} is no variant: it holds neither {CARD} with {WEIGHTS} nor {UNET_FILE}.safetensors"
        )
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _parsed(_content(file), file)
    _check(tensors, base, folder)
    if lacking := sorted(base.keys() - tensors.keys()):
        raise UnusableVariant(f"{folder} lacks tensors of this model's UNet: {_some(lacking)}; it is of another model")
    return tensors


def _changed(tensors: dict[str, Tensor], base: Mapping[str, Tensor], folder: Path) -> dict[str, Tensor]:
    """The tensors that differ from the base's by more than the coarser of both dtypes' rounding."""
    changed = {}
    for name, tensor in tensors.items():
        own = base[name]
        coarser = own.dtype if own.dtype.itemsize < tensor.dtype.itemsize else tensor.dtype
        if not torch.equal(own.cpu().to(coarser), tensor.to(coarser)):
            changed[name] = tensor
    if not changed:
        raise UnusableVariant(f"{folder} holds the model's own UNet: nothing is erased in it")
    return changed


def _content(file: Path) -> bytes:
    """The file, read once: what is checked is what is used, whatever becomes of the file meanwhile."""
    if file.suffix in PICKLES:
        raise UnusableVariant(_told_pickle(file))
    if not file.is_file():
        if file.name == WEIGHTS:  # of a folder with a card: what lies there instead
            _refuse_pickles(file.parent)
        raise UnusableVariant(f"{file} is not there: name a folder with {CARD}, a UNet folder or a .safetensors file")
    if file.suffix != ".safetensors":
        raise UnusableVariant(f"{file} is not named .safetensors: only that format is read")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UnusableVariant(f"{file} cannot be read ({error.strerror}): mend the disk, or who may read it") from error
    if content.startswith(PICKLED_STARTS):
        raise UnusableVariant(_told_pickle(file))
    return content


def _parsed(content: bytes, file: Path) -> dict[str, Tensor]:
    try:
        tensors = load(content)
    except (SafetensorError, LookupError, RuntimeError, ValueError) as error:
        raise UnusableVariant(f"{file} is truncated or damaged ({error}): fetch it again") from error
    if not tensors:
        raise UnusableVariant(f"{file} holds no tensor")
    return tensors


def _check(tensors: Mapping[str, Tensor], base: Mapping[str, Tensor], source: Path) -> None:
    if unknown := sorted(tensors.keys() - base.keys()):
        raise UnusableVariant(
            f"{source} names tensors that this model's UNet has not: {_some(unknown)};"
            " it is of another model, or no UNet in diffusers' layout"
        )
    other = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(base[name].shape)}"
        for name, tensor in sorted(tensors.items())
        if tensor.shape != base[name].shape
    ]
    if other:
        raise UnusableVariant(f"{source} has tensors of other shapes than this model's UNet: {_some(other)}")
    if other := [f"{name} {tensor.dtype}" for name, tensor in sorted(tensors.items()) if tensor.dtype not in DTYPES]:
        raise UnusableVariant(f"{source} has tensors in other numbers than 16, 32 or 64 bit floats: {_some(other)}")
    if broken := sorted(name for name, tensor in tensors.items() if not tensor.isfinite().all()):
        raise UnusableVariant(
            f"{source} holds NaN or infinity in: {_some(broken)}; its training diverged or the file is damaged"
        )
    if large := sorted(name for name, tensor in tensors.items() if not tensor.to(base[name].dtype).isfinite().all()):
        raise UnusableVariant(
            f"{source} has values too large for {base[large[0]].dtype}, which this model is held in: {_some(large)};"
            " serve it in a wider one (SEEMLY_DTYPE)"
        )


def _refuse_pickles(folder: Path) -> None:
    for file in sorted(folder.glob("*")):
        if file.suffix in PICKLES:
            raise UnusableVariant(_told_pickle(file))


def _told_pickle(file: Path) -> str:
    return f"{file} is a pickle, which can run code when it is read: convert it to safetensors where you trust it"


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def name_from(path: Path) -> str:
    """A name that requests can say, of the letters the file's name has."""
    stem = path.stem if path.suffix == ".safetensors" else path.name
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("._-")[:64] or "imported"


def _dtypes(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()}))


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
