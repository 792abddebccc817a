"""Variants on disk: what is written reads back the same; whatever is not safe to serve is refused with its reason."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import tiny
from tests.originals import lay_over
from workers.engine.weights import SwappedWeights
from workers.variants.card import Base, Kind, is_cross_attention, is_key_or_value, read_card
from workers.variants.reading import UnusableVariant, load_variant
from workers.variants.writing import write_variant

SHA, OTHER_SHA = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    return tiny.pipeline().unet


@pytest.fixture(scope="module")
def base(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in unet.state_dict().items()}


def moved(base: dict[str, Tensor], chosen: Callable[[str], bool]) -> dict[str, Tensor]:
    return {name: tensor + 0.25 for name, tensor in base.items() if chosen(name)}


def write(folder: Path, base: dict[str, Tensor], chosen: Callable[[str], bool] = is_key_or_value) -> Path:
    told: dict[str, Any] = {"method": "uce", "concepts": ("knife",), "base": Base(name="tiny", weights_sha256=SHA)}
    write_variant(folder, base | moved(base, chosen), base, torch.float32, **told)
    return folder


@pytest.mark.parametrize(
    ("chosen", "kind"),
    [
        (is_key_or_value, Kind.KV_ONLY),
        (is_cross_attention, Kind.ATTN2_ONLY),
        (lambda name: not is_cross_attention(name), Kind.FULL),
    ],
)
def test_a_variant_holds_what_changed_and_reads_back(
    tmp_path: Path, base: dict[str, Tensor], chosen: Callable[[str], bool], kind: Kind
) -> None:
    folder = write(tmp_path / "v", base, chosen)
    stored = load_file(folder / "variant.safetensors")
    assert set(stored) == {name for name in base if chosen(name)}
    variant = load_variant(folder, base, SHA)
    assert (variant.name, variant.kind, variant.card.tensors) == ("v", kind, tuple(sorted(stored)))
    assert all(torch.equal(variant.tensors[name], base[name] + 0.25) for name in stored)
    assert variant.size_bytes == sum(tensor.nbytes for tensor in stored.values())


def test_laid_over_and_back_the_unet_is_as_before(unet: UNet2DConditionModel, base: dict[str, Tensor]) -> None:
    new = moved(base, is_key_or_value)
    before = lay_over(unet, new)
    state = unet.state_dict()
    assert all(torch.equal(state[name], new.get(name, base[name])) for name in base)
    lay_over(unet, before)
    assert all(torch.equal(unet.state_dict()[name], base[name]) for name in base)


def test_a_published_unet_folder_gives_its_changed_tensors_only(tmp_path: Path, base: dict[str, Tensor]) -> None:
    published = tiny.pipeline().unet
    lay_over(published, moved(base, is_cross_attention))
    for folder, at in ((tmp_path / "repo", "unet"), (tmp_path / "ESD Knife!", ".")):
        published.half().save_pretrained(folder / at)
        variant = load_variant(folder, base, SHA)
        assert variant.kind is Kind.ATTN2_ONLY
        assert all(is_cross_attention(name) for name in variant.tensors)
    assert variant.name == "esd-knife"
    assert variant.card.method == "imported"
    assert load_variant(folder, base, SHA, name="mine").name == "mine"


def test_a_sharded_unet_folder_is_read_whole(tmp_path: Path, base: dict[str, Tensor]) -> None:
    published = tiny.pipeline().unet
    lay_over(published, moved(base, lambda name: name.startswith("conv_in")))
    published.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert set(load_variant(tmp_path, base, SHA).tensors) == {"conv_in.weight", "conv_in.bias"}


def test_a_partial_state_as_esd_publishes_it_is_read(tmp_path: Path, base: dict[str, Tensor]) -> None:
    file = tmp_path / "esd-knife_from_sd.safetensors"
    save_file(moved(base, is_key_or_value), file)
    variant = load_variant(file, base, SHA)
    assert (variant.name, variant.kind) == ("esd-knife_from_sd", Kind.KV_ONLY)


def _other_base(folder: Path) -> None:
    card = json.loads((folder / "card.json").read_text())
    card["base"] = {"name": "another", "weights_sha256": OTHER_SHA}
    (folder / "card.json").write_text(json.dumps(card))


def _truncated(folder: Path) -> None:
    file = folder / "variant.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _pickled(folder: Path) -> None:
    (folder / "variant.safetensors").write_bytes(pickle.dumps({"weights": [1.0]}))


def _torch_pickled(folder: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, folder / "variant.safetensors")


def _only_a_pickle(folder: Path) -> None:
    (folder / "variant.safetensors").rename(folder / "variant.bin")


def _edited(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "variant.safetensors")
        change(tensors)
        save_file(tensors, folder / "variant.safetensors")

    return edit


def _first(tensors: dict[str, Tensor]) -> Tensor:
    return tensors[min(tensors)]


def _unknown_name(tensors: dict[str, Tensor]) -> None:
    tensors["text_model.embeddings"] = torch.zeros(1)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_other_base, "was made from 'another' .* make it anew"),
        (_truncated, "truncated or damaged .* fetch it again"),
        (_pickled, "is a pickle"),
        (_torch_pickled, "is a pickle"),
        (_only_a_pickle, "is a pickle"),
        (_edited(lambda tensors: _first(tensors)[0].fill_(float("nan"))), "NaN or infinity in"),
        (_edited(lambda tensors: _first(tensors)[0].fill_(float("inf"))), "NaN or infinity in"),
        (_edited(lambda tensors: _first(tensors)[0].fill_(7.0)), "not the file that card.json was written for"),
        (_edited(_unknown_name), "other tensors than card.json names"),
        (lambda folder: (folder / "variant.safetensors").unlink(), "is not there"),
        (lambda folder: (folder / "card.json").write_text("{}"), "no card of a variant"),
        (lambda folder: (folder / "card.json").unlink(), "holds neither card.json"),
    ],
)
def test_a_spoilt_variant_is_refused(
    tmp_path: Path, base: dict[str, Tensor], spoil: Callable[[Path], None], reason: str
) -> None:
    folder = write(tmp_path / "v", base)
    spoil(folder)
    with pytest.raises(UnusableVariant, match=reason):
        load_variant(folder, base, SHA)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"unet.conv_in.weight": torch.zeros(1)}, "this model's UNet has not: unet.conv_in.weight"),
        ({"conv_in.bias": torch.zeros(320)}, r"other shapes than this model's UNet: conv_in.bias \(320,\) instead"),
        ({"conv_in.bias": torch.zeros(16, dtype=torch.int64)}, "other numbers than 16, 32 or 64 bit floats"),
        ({}, "holds no tensor"),
    ],
)
def test_a_partial_state_of_another_unet_is_refused(
    tmp_path: Path, base: dict[str, Tensor], tensors: dict[str, Tensor], reason: str
) -> None:
    save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(UnusableVariant, match=reason):
        load_variant(tmp_path / "part.safetensors", base, SHA)


def test_files_that_are_no_variant_are_refused(tmp_path: Path, base: dict[str, Tensor]) -> None:
    torch.save(base, tmp_path / "unet.pt")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    reasons = {"unet.pt": "pickle", "notes.txt": "not named", "empty": "neither", "none": "is not there"}
    for name, reason in reasons.items():
        with pytest.raises(UnusableVariant, match=reason):
            load_variant(tmp_path / name, base, SHA)


def test_a_unet_folder_that_is_the_base_or_not_whole_is_refused(tmp_path: Path, base: dict[str, Tensor]) -> None:
    tiny.pipeline().unet.save_pretrained(tmp_path)
    with pytest.raises(UnusableVariant, match="the model's own UNet"):
        load_variant(tmp_path, base, SHA)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file({name: base[name] for name in base if name != "conv_in.weight"}, file)
    with pytest.raises(UnusableVariant, match=r"lacks tensors of this model's UNet: conv_in.weight"):
        load_variant(tmp_path, base, SHA)
    file.unlink()
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "../x.safetensors"}}'
    )
    with pytest.raises(UnusableVariant, match="outside its folder"):
        load_variant(tmp_path, base, SHA)


def test_writing_refuses_what_could_not_be_served(tmp_path: Path, base: dict[str, Tensor]) -> None:
    told: dict[str, Any] = {"method": "uce", "base": Base(name="tiny", weights_sha256=SHA)}
    with pytest.raises(ValueError, match="nothing was erased"):
        write_variant(tmp_path / "v", base, base, torch.float16, **told)
    with pytest.raises(ValueError, match=r"NaN or infinity as torch.float16 in conv_in.bias"):
        write_variant(tmp_path / "v", {"conv_in.bias": torch.full((16,), 1e6)}, base, torch.float16, **told)
    assert not (tmp_path / "v").exists()


def test_a_card_reads_back_as_written(tmp_path: Path, base: dict[str, Tensor]) -> None:
    folder = write(tmp_path / "v", base)
    card = read_card(folder)
    assert card.concepts == ("knife",)
    assert card.dtype == "float32"
    assert card.base.weights_sha256 == SHA


def test_values_that_do_not_fit_the_served_numbers_are_refused(tmp_path: Path, base: dict[str, Tensor]) -> None:
    file = tmp_path / "large.safetensors"
    save_file({"conv_in.bias": torch.full((16,), 1e6)}, file)
    assert load_variant(file, base, SHA).name == "large"
    halves = {name: tensor.half() for name, tensor in base.items()}
    with pytest.raises(UnusableVariant, match=r"too large for torch.float16, .* in: conv_in.bias; serve it in a wider"):
        load_variant(file, halves, SHA)


def test_a_folder_of_another_name_than_its_card_is_refused(tmp_path: Path, base: dict[str, Tensor]) -> None:
    folder = write(tmp_path / "v", base).rename(tmp_path / "w")
    with pytest.raises(UnusableVariant, match="says of itself that it is 'v', not 'w'"):
        load_variant(folder, base, SHA)


def test_what_was_read_is_not_the_files_any_more(tmp_path: Path, base: dict[str, Tensor]) -> None:
    folder = write(tmp_path / "v", base)
    tensors = load_variant(folder, base, SHA).tensors
    assert str(folder) not in Path("/proc/self/maps").read_text()  # where reading it, once truncated, would be SIGBUS
    (folder / "variant.safetensors").write_bytes(b"")
    assert all(tensor.isfinite().all() for tensor in tensors.values())


def test_weights_are_exchanged_all_or_not_at_all(unet: UNet2DConditionModel, base: dict[str, Tensor]) -> None:
    weights = SwappedWeights(unet)
    weights.put(moved(base, is_cross_attention))
    with pytest.raises(KeyError):
        weights.put({"conv_in.bias": base["conv_in.bias"] + 1, "no.such": torch.zeros(1)})
    assert all(torch.equal(tensor, base[name]) for name, tensor in unet.state_dict().items())


def test_a_link_to_a_variant_is_called_as_the_link(tmp_path: Path, base: dict[str, Tensor]) -> None:
    (tmp_path / "store").mkdir()
    write(tmp_path / "v", base).rename(tmp_path / "store" / "2026-01")
    (tmp_path / "v").symlink_to(tmp_path / "store" / "2026-01")
    assert load_variant(tmp_path / "v", base, SHA).name == "v"
    with pytest.raises(UnusableVariant, match="give both one name"):
        load_variant(tmp_path / "store" / "2026-01", base, SHA)
