"""Erasing from end to end on a tiny model: what changes, what resumes, what is refused."""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from contract.recipe import Esd, Recipe, Sdd, Uce
from lab.erasure import training as trainings
from lab.erasure.erase import Keeping, erase
from lab.erasure.training import Diverged, OtherTraining, Training
from tests.originals import SHA, tiny_original
from workers.variants.card import Kind, VariantCard, is_cross_attention, is_key_or_value
from workers.variants.reading import load_variant

QUICK: dict[str, Any] = {"concepts": ("ab", "c"), "sampling_steps": 3, "learning_rate": 1e-3}
CONSOLE = Console(quiet=True)


def keeping(folder: Path, **changes: Any) -> Keeping:
    return replace(Keeping(work=folder / "work", checkpoint_every=2, preview_every=0, dtype=torch.float32), **changes)


def made(recipe: Recipe, folder: Path, **changes: Any) -> VariantCard:
    card = erase(tiny_original(torch.float32), recipe, folder / "v", keeping(folder, **changes), CONSOLE)
    assert card is not None
    return card


def stored(folder: Path) -> dict[str, Tensor]:
    return dict(load_variant(folder / "v", tiny_original(torch.float32).unet.state_dict(), SHA).tensors)


@pytest.mark.parametrize(
    ("recipe", "kind", "is_named"),
    [
        (Esd(method="esd-x", iterations=2, **QUICK), Kind.ATTN2_ONLY, is_cross_attention),
        (Esd(method="esd-x-strict", iterations=2, **QUICK), Kind.KV_ONLY, is_key_or_value),
        (Esd(method="esd-u", iterations=2, **QUICK), Kind.FULL, lambda name: not is_cross_attention(name)),
        (Sdd(iterations=3, warmup_iterations=1, **QUICK), Kind.ATTN2_ONLY, is_cross_attention),
        (Sdd(iterations=3, warmup_iterations=1, kv_only=True, **QUICK), Kind.KV_ONLY, is_key_or_value),
        (Uce(concepts=("ab", "c"), preserved=("d",)), Kind.KV_ONLY, is_key_or_value),
    ],
)
def test_only_the_named_tensors_change(tmp_path: Path, recipe: Recipe, kind: Kind, is_named: Any) -> None:
    card = made(recipe, tmp_path)
    before = tiny_original(torch.float32).unet.state_dict()
    tensors = stored(tmp_path)
    assert card.kind is kind
    assert tensors
    assert all(is_named(name) and not torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert (card.method, card.concepts, card.base.weights_sha256) == (recipe.method, ("ab", "c"), SHA)
    assert card.hyperparameters.keys() >= recipe.model_dump(exclude={"method", "concepts", "preserved"}).keys()


def test_every_tensor_that_is_named_is_trained(tmp_path: Path) -> None:
    names = [name for name in tiny_original(torch.float32).unet.state_dict() if is_cross_attention(name)]
    assert set(made(Sdd(iterations=3, warmup_iterations=1, **QUICK), tmp_path).tensors) == set(names)


@pytest.mark.parametrize(
    "recipe", [Esd(method="esd-x", iterations=6, **QUICK), Sdd(iterations=6, warmup_iterations=2, **QUICK)]
)
def test_a_killed_training_resumes_exactly(tmp_path: Path, recipe: Esd | Sdd, monkeypatch: pytest.MonkeyPatch) -> None:
    made(recipe, tmp_path / "whole")
    step = Training._step

    def killed_at_five(training: Training) -> float:
        if training.iteration == 5:
            raise KeyboardInterrupt
        return step(training)

    monkeypatch.setattr(trainings.Training, "_step", killed_at_five)
    with pytest.raises(KeyboardInterrupt):
        made(recipe, tmp_path / "killed")
    monkeypatch.undo()
    work = tmp_path / "killed" / "work"
    assert torch.load(work / "checkpoint.pt", weights_only=True)["iteration"] == 4
    (work / "checkpoint.pt.part").write_bytes(b"torn")  # what a kill while saving leaves
    with (work / "log.jsonl").open("a") as log:
        log.write('\n{"iteration": 5, "lo')
    made(recipe, tmp_path / "killed")
    whole, resumed = stored(tmp_path / "whole"), stored(tmp_path / "killed")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_limit_ends_a_run_and_the_next_goes_on(tmp_path: Path) -> None:
    recipe = Sdd(iterations=4, warmup_iterations=1, **QUICK)
    made(recipe, tmp_path / "whole")
    for _ in range(3):
        limited = keeping(tmp_path, limit_s=0)
        assert erase(tiny_original(torch.float32), recipe, tmp_path / "v", limited, CONSOLE) is None
        assert not (tmp_path / "v").exists()
    made(recipe, tmp_path)
    whole, parts = stored(tmp_path / "whole"), stored(tmp_path)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_another_recipe_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    made(Sdd(iterations=2, warmup_iterations=1, **QUICK), tmp_path)
    with pytest.raises(OtherTraining, match="give its options, or remove the folder"):
        made(Sdd(iterations=2, warmup_iterations=1, **QUICK | {"learning_rate": 2e-3}), tmp_path)


def test_a_training_that_diverges_says_so(tmp_path: Path) -> None:
    original = tiny_original(torch.float32)
    original.unet.conv_in.weight[0] = torch.nan
    with pytest.raises(Diverged, match="the loss is nan at iteration 0: lower the learning rate"):
        erase(original, Esd(method="esd-x", **QUICK), tmp_path / "v", keeping(tmp_path), CONSOLE)
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_with_gradient_checkpointing_trains(tmp_path: Path, precision: Any) -> None:
    options = QUICK | {"precision": precision, "gradient_checkpointing": True, "weight_decay": 0}
    recipe = Sdd(iterations=3, warmup_iterations=1, **options)
    made(recipe, tmp_path)
    tensors, before = stored(tmp_path), tiny_original(torch.float32).unet.state_dict()
    moved = max(float((tensor - before[name]).abs().max()) for name, tensor in tensors.items())
    assert 0 < moved < 0.01


def test_gradient_checkpointing_changes_nothing(tmp_path: Path) -> None:
    recipe = Sdd(iterations=2, warmup_iterations=1, **QUICK)
    made(recipe, tmp_path / "plain")
    made(recipe.model_copy(update={"gradient_checkpointing": True}), tmp_path / "saving")
    plain, saving = stored(tmp_path / "plain"), stored(tmp_path / "saving")
    assert all(torch.allclose(plain[name], saving[name], rtol=1e-4, atol=1e-6) for name in plain)


def test_previews_are_drawn_every_so_often(tmp_path: Path) -> None:
    made(Esd(method="esd-x", iterations=3, **QUICK), tmp_path, preview_every=2)
    sheets = sorted(path.name for path in (tmp_path / "work" / "previews").iterdir())
    assert sheets == ["000002.png", "000003.png"]


def test_a_checkpoint_outlives_its_log_and_is_told_when_it_is_damaged(tmp_path: Path) -> None:
    recipe = Esd(method="esd-x", iterations=2, **QUICK)
    assert made(recipe, tmp_path).training["last_loss"]
    (tmp_path / "work" / "log.jsonl").unlink()
    assert "last_loss" not in made(recipe, tmp_path).training
    checkpoint = tmp_path / "work" / "checkpoint.pt"
    whole = checkpoint.read_bytes()
    others = []
    for content in ([1], {"iteration": 1}):
        torch.save(content, checkpoint)
        others.append(checkpoint.read_bytes())
    for damaged in (whole[:1000], b"", b"no checkpoint", *others):
        checkpoint.write_bytes(damaged)
        with pytest.raises(OtherTraining, match="is damaged: remove the folder to begin anew"):
            made(recipe, tmp_path)


def test_a_full_disk_is_told_and_costs_no_more_than_since_the_last_checkpoint(tmp_path: Path) -> None:
    recipe = Esd(method="esd-x", iterations=4, **QUICK)
    assert erase(tiny_original(torch.float32), recipe, tmp_path / "v", keeping(tmp_path, limit_s=0), CONSOLE) is None
    before = (tmp_path / "work" / "checkpoint.pt").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # no file may be larger
    try:
        with pytest.raises(OSError, match="as on a full disk"):
            made(recipe, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in (tmp_path / "work").iterdir()} == {"checkpoint.pt", "log.jsonl"}
    assert (tmp_path / "work" / "checkpoint.pt").read_bytes() == before
    assert made(recipe, tmp_path).training["last_loss"]


@pytest.mark.parametrize("does", ["save", "load"])
@pytest.mark.parametrize("trouble", [torch.AcceleratorError, torch.OutOfMemoryError])
def test_trouble_of_the_device_is_neither_a_full_disk_nor_a_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str, trouble: type[Exception]
) -> None:
    recipe = Esd(method="esd-x", iterations=4, **QUICK)
    assert erase(tiny_original(torch.float32), recipe, tmp_path / "v", keeping(tmp_path, limit_s=0), CONSOLE) is None

    def fail(*_: object, **__: object) -> None:
        raise trouble("the device")

    monkeypatch.setattr(torch, does, fail)
    with pytest.raises(trouble):
        made(recipe, tmp_path)
