"""What loads, what is announced, and what is refused with a reason."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from workers.models import LoadedModel, UnusableModel, hash_weights, load

CPU = torch.device("cpu")


def test_a_checkpoint_without_seemly_json_announces_what_its_configs_say(tiny_model: LoadedModel) -> None:
    info = tiny_model.info
    assert (info.native_width_px, info.size_multiple_px, info.max_tokens) == (32, 4, 77)
    assert (info.default_steps, info.default_guidance_scale) == (25, 7.5)
    assert info.scores_text_concepts


def test_seemly_json_sets_defaults_and_an_unknown_field_is_refused(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "own")
    (folder / "seemly.json").write_text(json.dumps({"default_guidance_scale": 4.0, "max_size_px": 48}))
    info = load(str(folder), name="own", device=CPU).info
    assert (info.default_guidance_scale, info.max_size_px, info.default_steps) == (4.0, 48, 25)
    (folder / "seemly.json").write_text(json.dumps({"guidance": 4.0}))
    with pytest.raises(UnusableModel, match="guidance"):
        load(str(folder), name="own", device=CPU)


def test_the_tokenizer_announced_counts_like_the_model(tiny_model: LoadedModel) -> None:
    from tokenizers import Tokenizer

    announced = Tokenizer.from_str(tiny_model.tokenizer_json.decode())
    assert len(announced.encode("a cat").ids) == 6  # start, a, c, a, t, end


def test_a_changed_weight_changes_the_hash(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "changed")
    assert hash_weights(folder) == hash_weights(tiny_folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert hash_weights(folder) != hash_weights(tiny_folder)


def pickled_unet(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(pickle.dumps({}))


def truncated(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def without_checker(folder: Path) -> None:
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"safety_checker": [None, None]}))


def not_a_model(folder: Path) -> None:
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (pickled_unet, "safetensors"),
        (truncated, "safetensors"),
        (without_checker, "safety checker"),
        (not_a_model, "Stable Diffusion"),
    ],
)
def test_an_unusable_checkpoint_is_refused_with_the_reason(
    tiny_folder: Path, tmp_path: Path, damage: object, reason: str
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "damaged")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(UnusableModel, match=reason):
        load(str(folder), name="damaged", device=CPU)


def test_a_missing_folder_is_refused_at_once_without_asking_a_hub(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="neither a folder nor a hub id"):
        load(str(tmp_path / "nothing"), name="nothing", device=CPU)
