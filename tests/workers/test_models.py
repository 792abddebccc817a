"""What loads, what is announced, and what is refused with a reason."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.effect import Effect, MeasuredEffects, MeasuredUnder
from contract.plan import SafetyPlan
from tests import engines, tiny
from workers.checkpoint import HUB_EXCEPTIONS, HUB_PATTERNS, UnusableModel, hash_weights
from workers.models import LoadedModel, load

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
    assert hash_weights(shutil.copytree(tiny_folder, tmp_path / "same")) == hash_weights(tiny_folder)
    for part in ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"):
        folder = shutil.copytree(tiny_folder, tmp_path / part.replace("/", "-"))
        weights = folder / part
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        assert hash_weights(folder) != hash_weights(tiny_folder)


def test_a_changed_scheduler_changes_the_hash(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "changed")
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(config.read_text().replace('"epsilon"', '"v_prediction"'))
    assert hash_weights(folder) != hash_weights(tiny_folder)


@pytest.mark.parametrize(
    ("name", "is_wanted"),
    [
        ("unet/diffusion_pytorch_model.safetensors", True),
        ("scheduler/scheduler_config.json", True),
        ("tokenizer/merges.txt", True),
        ("unet/diffusion_pytorch_model.fp16.safetensors", False),
        ("unet/diffusion_pytorch_model.non_ema.safetensors", False),
        ("v1-5-pruned.safetensors", False),
        ("unet/diffusion_pytorch_model.bin", False),
        ("v1-5-pruned.ckpt", False),
        ("pipeline.py", False),
    ],
)
def test_a_download_brings_one_copy_of_the_weights_and_nothing_that_runs(name: str, is_wanted: bool) -> None:
    from huggingface_hub.utils import filter_repo_objects

    kept = list(filter_repo_objects([name], allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_EXCEPTIONS))
    assert bool(kept) is is_wanted


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_filter_scores_alike_whatever_the_model_runs_in(
    tiny_folder: Path, tiny_model: LoadedModel, dtype: torch.dtype
) -> None:
    half = load(str(tiny_folder), name="half", device=CPU, dtype=dtype)
    pictures = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    scores = [[score.score for score in one] for one in half.parts.detector.score(pictures, [None] * 2)]
    expected = [[score.score for score in one] for one in tiny_model.parts.detector.score(pictures, [None] * 2)]
    assert scores == expected


def test_every_served_method_runs_in_half_precision(tiny_folder: Path) -> None:
    half = load(str(tiny_folder), name="half", device=CPU, dtype=torch.bfloat16)
    plans = [
        {"prompt": {"concepts": ["harm"]}, "guidance": {"method": "sld", "preset": "max", "concepts": ["harm"]}},
        {"guidance": {"method": "sega", "concepts": [{"text": "harm", "warmup_steps": 1}]}},
        {"guidance": {"method": "negative", "concepts": ["harm"]}},
        {"trajectory": {"preset": "filter", "threshold": -1.0}},
    ]
    specs = [engines.spec(i, plan=SafetyPlan.model_validate(plan)) for i, plan in enumerate(plans)]
    assert [outcome.failure for outcome in engines.run(engines.engine(half), specs)] == [None] * 4


def pickled_unet(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(tiny.pipeline().unet.state_dict(), folder / "unet" / "diffusion_pytorch_model.bin")


def truncated(folder: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def without_checker(folder: Path) -> None:
    shutil.rmtree(folder / "safety_checker")


def pickled_checker(folder: Path) -> None:
    (folder / "safety_checker" / "model.safetensors").unlink()
    torch.save(tiny.pipeline().safety_checker.state_dict(), folder / "safety_checker" / "pytorch_model.bin")


def without_thresholds(folder: Path) -> None:
    file = folder / "safety_checker" / "model.safetensors"
    tensors = load_file(file)
    del tensors["concept_embeds_weights"]
    save_file(tensors, file)


def with_thresholds_of_nothing(folder: Path) -> None:
    file = folder / "safety_checker" / "model.safetensors"
    save_file(load_file(file) | {"concept_embeds_weights": torch.full((17,), torch.nan)}, file)


def not_a_model(folder: Path) -> None:
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (pickled_unet, "no file named"),
        (pickled_checker, "no usable safety checker in safetensors"),
        (truncated, "safetensors"),
        (without_checker, "safety checker"),
        (without_thresholds, "lacks concept_embeds_weights"),
        (with_thresholds_of_nothing, "no numbers"),
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


def test_effects_of_these_weights_are_announced_and_those_of_others_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "measured")
    effect = Effect(pictures=3, failures=0, distance=0.1, unet_rows=8, seconds=0.3)
    for weights, is_own in ((hash_weights(folder), True), ("0" * 64, False)):
        under = MeasuredUnder(weights_sha256=weights, steps=4, guidance_scale=2, safety_concepts=("a",), unguidance={})
        measured = MeasuredEffects(settings=under, effects={"own": {"none": effect}})
        (folder / "effects.json").write_text(measured.model_dump_json(exclude_none=True))
        assert load(str(folder), name="measured", device=CPU).info.measured == (measured if is_own else None)
    (folder / "effects.json").write_text("[]")
    with pytest.raises(UnusableModel, match=r"effects\.json"):
        load(str(folder), name="measured", device=CPU)
