"""UNets of others made variants of a model: compared with it, and kept as this project keeps erased weights."""

from pathlib import Path

from diffusers import UNet2DConditionModel
from torch import Tensor

from workers.checkpoint import find_folder, hash_weights
from workers.variants.card import Base, VariantCard
from workers.variants.reading import UnusableVariant, load_variant, name_from
from workers.variants.writing import write_variant


def base_of(model: str) -> tuple[dict[str, Tensor], Base]:
    """The state of a model's UNet, in float32, and what a card says of the model; a folder, or a hub id.

    Raises:
        UnusableModel: there is none.
    """
    folder = find_folder(model)
    how = {"use_safetensors": True, "local_files_only": True, "low_cpu_mem_usage": False}
    unet = UNet2DConditionModel.from_pretrained(folder / "unet", **how)
    name = folder.resolve().name if Path(model).is_dir() else model
    state: dict[str, Tensor] = unet.state_dict()
    return state, Base(name=name, weights_sha256=hash_weights(folder))


def import_variant(source: Path, model: str, shelf: Path, name: str | None = None) -> VariantCard:
    """Put a UNet on a shelf of variants, from where a worker of the model serves it as `erased:<name>`.

    Args:
        source: whatever `load_variant` reads; best a diffusers UNet folder
        model: folder or hub id of the model it is for
        shelf: folder of variants; a variant of the same name in it is replaced
        name: what requests call it; null: made from the file's or folder's name

    Raises:
        UnusableModel: there is no such model.
        UnusableVariant: it is not there, of another model, damaged, or the model's own UNet.
    """
    state, base = base_of(model)
    found = source.parent if source.name == "unet" else source
    variant = load_variant(source, state, base.weights_sha256, name or name_from(found.resolve()))
    widest = max((tensor.dtype for tensor in variant.tensors.values()), key=lambda dtype: dtype.itemsize)
    told = {"method": variant.card.method, "concepts": variant.card.concepts, "base": base}
    try:
        return write_variant(shelf / variant.name, variant.tensors, state, widest, **told)
    except ValueError as error:
        raise UnusableVariant(f"{source}: {error}") from None
