"""Weights of measures as files: wrong nets, damaged statistics, a damaged CLIP; each refused with its reason."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lab.evaluation.measures.choose import Chooser
from lab.evaluation.measures.frechet import Gaussian
from lab.evaluation.measures.measure import UnusableMeasure

CPU = torch.device("cpu")


class Pooled(nn.Module):
    """Has the layers that FID takes, and is called otherwise than LPIPS'."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return x


class Bare(nn.Module):
    """Has no layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("nets")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name, net in (("pooled", Pooled()), ("bare", Bare())):
            torch.jit.script(net).save(str(folder / f"{name}.pt"))
    Gaussian(np.zeros(3), np.eye(3)).write(folder / "whole.npz")
    return {name: folder / f"{name}.pt" for name in ("pooled", "bare")} | {"whole": folder / "whole.npz"}


def refused(name: str, **weights: Path) -> str:
    given = {key.replace("_", "-"): str(value) for key, value in weights.items()}
    with pytest.raises(UnusableMeasure) as told:
        Chooser("model", None, given, CPU).all_of([name], [])
    return str(told.value)


def test_another_net_in_torchscript_is_not_the_measures(nets: dict[str, Path]) -> None:
    assert "not the published one of lpips" in refused("lpips", lpips=nets["pooled"])
    assert "not the published one of fid" in refused("fid", fid=nets["bare"], fid_reference=nets["whole"])


def test_statistics_that_are_damaged_or_none_are_refused(nets: dict[str, Path], tmp_path: Path) -> None:
    whole, file = nets["whole"].read_bytes(), tmp_path / "reference.npz"
    for content in (b"", whole[: len(whole) // 2], b"PK\x03\x04", whole[:60] + b"\xff\xff\xff" + whole[63:]):
        file.write_bytes(content)
        assert "reference of FID cannot be read" in refused("fid", fid=nets["pooled"], fid_reference=file)
    with file.open("wb") as opened:
        np.save(opened, np.zeros(3))
    assert "is no .npz file" in refused("fid", fid=nets["pooled"], fid_reference=file)
    np.savez(file, mu=np.full(3, np.nan), sigma=np.eye(3))
    assert "not finite" in refused("fid", fid=nets["pooled"], fid_reference=file)
    assert sorted(path.name for path in nets["whole"].parent.iterdir()) == ["bare.pt", "pooled.pt", "whole.npz"]


def test_small_weights_that_are_damaged_are_refused(clip_folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "whole.npz", prompts=np.zeros((2, 16), np.float32))
    whole = (tmp_path / "whole.npz").read_bytes()
    for content in (b"", whole[:100]):
        (tmp_path / "q16.npz").write_bytes(content)
        assert "cannot be read" in refused("q16", q16=tmp_path / "q16.npz", clip=clip_folder)


def test_a_clip_that_is_damaged_or_of_another_shape_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    weights = copy / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:1000])
    assert "no CLIP in safetensors" in refused("clip-score", clip=copy)
    weights.write_bytes(whole)
    (copy / "config.json").write_text("{}")
    assert "no CLIP in safetensors" in refused("clip-score", clip=copy)


@pytest.mark.parametrize(
    ("concepts", "told"),
    [
        (["x=a cat@0.1", "x=a dog@0.1"], "two concepts are called 'x'"),
        (["x= @0.1"], "NAME=TEXT@COSINE"),
    ],
)
def test_concepts_that_cannot_be_told_apart_or_say_nothing_are_refused(concepts: list[str], told: str) -> None:
    with pytest.raises(UnusableMeasure, match=told):
        Chooser("model", None, {}, CPU).all_of([], concepts)


def test_another_text_makes_another_version_of_a_concept(clip_folder: Path) -> None:
    chooser = Chooser("model", None, {"clip": str(clip_folder)}, CPU)
    (cat, dog), (again,) = chooser.all_of([], ["x=a cat@0.1", "y=a dog@0.1"]), chooser.all_of([], ["x=a cat@0.2"])
    assert cat.version == again.version != dog.version
