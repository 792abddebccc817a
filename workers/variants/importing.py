"""UNets of others made variants of a model: compared with it, and kept as this project keeps erased weights."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from diffusers import UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor

from contract.model import VariantStatus
from workers.checkpoint import UnusableModel, find_folder, hash_weights
from workers.variants.card import CARD, Base, StatusChange, VariantCard, read_card
from workers.variants.reading import UnusableVariant, load_variant, name_from
from workers.variants.writing import write_variant

TOLD_BY_WEIGHTS: Final = {"format", "name", "kind", "tensors", "dtype", "weights_sha256"}  # of a card; the rest is kept


def base_of(model: str) -> tuple[dict[str, Tensor], Base]:
    """The state of a model's UNet, in float32, and what a card says of the model; a folder, or a hub id.

    Raises:
        UnusableModel: there is none, or it is damaged.
    """
    folder = find_folder(model)
    how = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
    try:
        unet = UNet2DConditionModel.from_pretrained(folder / "unet", **how)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        why = str(error).splitlines()[0]
        raise UnusableModel(f"the UNet of {model} cannot be read: {why}") from error
    name = folder.resolve().name if Path(model).is_dir() else model
    state: dict[str, Tensor] = unet.state_dict()
    return state, Base(name=name, weights_sha256=hash_weights(folder))


def import_variant(
    source: Path, model: str, shelf: Path, name: str | None = None, *, replace: bool = False, is_candidate: bool = False
) -> VariantCard:
    """Put a UNet on a shelf of variants, from where a worker of the model serves it as `erased:<name>`.

    Args:
        source: whatever `load_variant` reads; best a diffusers UNet folder. What a card tells of one is kept.
        model: folder or hub id of the model it is for
        shelf: folder of variants
        name: what requests call it; null: as its card says, else made from the file's or folder's name
        replace: whatever the shelf holds under that name
        is_candidate: it has to be promoted before requests may ask for it

    Raises:
        UnusableModel: there is no such model.
        UnusableVariant: it is not there, of another model, damaged, or the model's own UNet; or its name is taken.
    """
    state, base = base_of(model)
    found = source.parent if source.name == "unet" else source
    variant = load_variant(source, state, base.weights_sha256, name or name_from(found.resolve()))
    folder = shelf / (name or variant.name)
    if (folder / CARD).exists() and not replace:
        raise UnusableVariant(
            f"there is a variant {folder.name!r} in {shelf} already: say another name, or to replace it"
        )
    widest = max((tensor.dtype for tensor in variant.tensors.values()), key=lambda dtype: dtype.itemsize)
    told = {field: getattr(variant.card, field) for field in VariantCard.model_fields.keys() - TOLD_BY_WEIGHTS}
    if variant.card.method == "imported":
        told["base"] = base
    if is_candidate:
        told["status"] = VariantStatus.CANDIDATE
    if (folder / CARD).exists():
        told["history"] = _history(folder, told["status"])
    try:
        return write_variant(folder, variant.tensors, state, widest, **told)
    except ValueError as error:
        raise UnusableVariant(f"{source}: {error}") from None


def _history(folder: Path, status: VariantStatus) -> tuple[StatusChange, ...]:
    """That of the name goes on: what was retired does not come back without a word."""
    try:
        replaced = read_card(folder)
    except ValueError:  # damaged: a reason to replace it
        return ()
    if replaced.status is status:
        return replaced.history
    change = StatusChange(at=datetime.now(UTC), status=status, reason="replaced by an import")
    return (*replaced.history, change)
