"""Every measure against its formula, over weights made here; and what is told where weights or packages are missing."""

import sys
import warnings
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPModel

from lab.evaluation.measures import frechet
from lab.evaluation.measures.choose import WEIGHTS, Chooser
from lab.evaluation.measures.frechet import Gaussian
from lab.evaluation.measures.looking import Looking, MeasureFailed, packed, unpacked
from lab.evaluation.measures.measure import Figure, Made, Measure, Pixels, Seen, UnusableMeasure
from lab.evaluation.measures.world import benign_drawings
from lab.evaluation.results import Measured
from lab.world import judge as judging
from tests import tiny
from workers.safety.detectors.nudenet import EXPOSED

DEMO = Path(__file__).parents[2] / "models" / "demo"
CPU = torch.device("cpu")


def pictures(*sizes: tuple[int, int]) -> tuple[Pixels, ...]:
    rng = np.random.default_rng(1)
    return tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)


MADE = Made(pictures((32, 32), (48, 32)), ("a cat", "a very long prompt " * 30), (*pictures((32, 32)), None))


def chosen(clip_folder: Path | None, name: str, **weights: Path) -> Measure:
    given = {key.replace("_", "-"): str(value) for key, value in weights.items()}
    if clip_folder is not None:
        given["clip"] = str(clip_folder)
    (measure,) = Chooser("model", None, given, CPU).all_of([name], [])
    return measure


def embedded(clip_folder: Path, made: Made, prefix: str = "") -> tuple[Tensor, Tensor]:
    """Pictures' and texts' embeddings by transformers' own whole model."""
    model = CLIPModel.from_pretrained(clip_folder).eval()
    processor, words = CLIPImageProcessor.from_pretrained(clip_folder), tiny.tokenizer()
    out = []
    with torch.no_grad():
        for pixels, text in zip(made.pixels, made.texts, strict=True):
            tokens = words(prefix + text, return_tensors="pt", truncation=True, max_length=77)
            seen = processor(Image.fromarray(pixels), return_tensors="pt")
            result = model(**tokens, **seen)
            out.append((result.image_embeds[0], result.text_embeds[0]))
    return torch.stack([image for image, _ in out]), torch.stack([text for _, text in out])


def test_clip_score_is_the_cosine_with_a_photo_that_depicts_the_prompt(clip_folder: Path) -> None:
    images, texts = embedded(clip_folder, MADE, "A photo depicts ")
    seen = chosen(clip_folder, "clip-score").see(MADE)
    assert [view.scores["clip-score"] for view in seen] == pytest.approx((images * texts).sum(1).tolist(), abs=2e-5)


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_q16_is_a_softmax_over_its_two_prompts(clip_folder: Path, tmp_path: Path, kind: str) -> None:
    prompts, file = torch.randn(2, 16, generator=torch.Generator().manual_seed(1)), tmp_path / f"q16.{kind}"
    if kind == "npz":
        np.savez(file, prompts=prompts.numpy())
    else:
        save_file({"prompts": prompts}, file)
    images, _ = embedded(clip_folder, MADE)
    logits = 100 * images @ (prompts / prompts.norm(dim=1, keepdim=True)).T
    expected = (logits[:, 1].exp() / logits.exp().sum(1)).tolist()
    measure = chosen(clip_folder, "q16", q16=file)
    assert [view.scores["q16"] for view in measure.see(MADE)] == pytest.approx(expected, abs=1e-4)
    assert [figure.at_least for figure in measure.figures] == [0.5, 0.7, 0.9]


def test_the_aesthetic_score_is_five_linear_layers_on_the_embedding(clip_folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    widths, names = (16, 12, 8, 6, 4, 1), ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
    layers = [nn.Linear(wide, narrow) for wide, narrow in pairwise(widths)]
    tensors = {
        f"{name}.{key}": value
        for name, layer in zip(names, layers, strict=True)
        for key, value in layer.state_dict().items()
    }
    save_file(tensors, tmp_path / "aesthetic.safetensors")
    images, _ = embedded(clip_folder, MADE)
    with torch.no_grad():
        expected = nn.Sequential(*layers)(images)[:, 0].tolist()
    seen = chosen(clip_folder, "aesthetic", aesthetic=tmp_path / "aesthetic.safetensors").see(MADE)
    assert [view.scores["aesthetic"] for view in seen] == pytest.approx(expected, abs=2e-5)


def test_a_concept_given_as_text_is_a_cosine_and_a_threshold(clip_folder: Path) -> None:
    (measure,) = Chooser("model", None, {"clip": str(clip_folder)}, CPU).all_of([], ["cat=a very long prompt@0.25"])
    images, texts = embedded(clip_folder, Made(MADE.pixels, ["a very long prompt"] * 2, MADE.plain))
    found = [view.scores["concept:cat"] for view in measure.see(MADE)]
    assert found == pytest.approx((images * texts).sum(1).tolist(), abs=2e-5)
    assert (measure.figures[0].at_least, measure.figures[0].means_unsafe) == (0.25, True)


class Compiled(nn.Module):
    """The shape of NVIDIA's nets: `layers` for FID, a call with flags for LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor, resize_images: bool = True, return_lpips: bool = False) -> Tensor:
        assert return_lpips
        assert not resize_images
        return self.layers(x / 255).flatten(1)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("nets") / "net.pt"
    torch.manual_seed(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(Compiled()).save(str(file))
    return file


def layers_of(net: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.load(str(net)).layers  # type: ignore[no-any-return]


def test_lpips_is_the_squared_distance_from_plain_in_the_nets_features(net: Path) -> None:
    tensors = [
        torch.from_numpy(p).permute(2, 0, 1)[None].float() for p in (MADE.pixels[0], MADE.plain[0]) if p is not None
    ]
    with torch.no_grad():
        one, other = (layers_of(net)(tensor / 255) for tensor in tensors)
    seen = chosen(None, "lpips", lpips=net).see(MADE)
    assert seen[0].scores["lpips"] == pytest.approx(float((one - other).square().sum()), abs=1e-5)
    assert not seen[1].scores  # no plain picture
    same = Made(MADE.pixels[:1], MADE.texts[:1], MADE.pixels[:1])
    assert chosen(None, "lpips", lpips=net).see(same)[0].scores["lpips"] == 0


def test_fid_takes_the_nets_features_of_pictures_resized_in_float(net: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "coco.npz", mu=np.zeros(4), sigma=np.eye(4))
    measure = chosen(None, "fid", fid=net, fid_reference=tmp_path / "coco.npz")
    channels = [
        np.asarray(
            Image.fromarray(MADE.pixels[1][..., i].astype(np.float32)).resize((299, 299), Image.Resampling.BICUBIC)
        )
        for i in range(3)
    ]
    with torch.no_grad():
        pixels = torch.from_numpy(np.stack(channels).clip(0, 255))[None]
        expected = layers_of(net)((pixels - 128) / 128).flatten().numpy()
    found = measure.see(MADE)[1].features
    assert found is not None
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert measure.reference is not None

    np.savez(tmp_path / "other.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(UnusableMeasure, match="4 features, its reference 5"):
        chosen(None, "fid", fid=net, fid_reference=tmp_path / "other.npz")


def test_the_frechet_distance_is_that_of_the_formula() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(size=(400, 6)) @ rng.normal(size=(6, 6)), 1 + rng.normal(size=(300, 6))
    a, b = Gaussian.of(one), Gaussian.of(other)
    values = np.linalg.eigvals(a.covariance @ b.covariance)  # tr (Σ₁Σ₂)^½ by the product's own eigenvalues
    expected = np.square(a.mean - b.mean).sum() + np.trace(a.covariance) + np.trace(b.covariance)
    expected -= 2 * np.sqrt(values.astype(complex)).real.sum()
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet.distance(a, b) == pytest.approx(frechet.distance(b, a), rel=1e-12)


def test_fewer_pictures_than_features_cost_the_frechet_distance_no_accuracy() -> None:
    features = np.random.default_rng(6).normal(size=(5, 64)).astype(np.float32)  # a covariance of rank 4
    few = Gaussian.of(features)
    assert frechet.distance(few, few) == pytest.approx(0, abs=1e-6)
    assert frechet.distance(few, Gaussian(few.mean + 2, few.covariance)) == pytest.approx(4 * 64, rel=1e-9)


@pytest.mark.parametrize(
    "features", [np.zeros((1, 3), np.float32), np.full((4, 3), np.nan, np.float32)], ids=["one", "nan"]
)
def test_a_spread_that_is_none_is_refused(features: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match=r"two at least|not finite"):
        Gaussian.of(features)
    with pytest.raises(ValueError, match="cannot be compared"):
        frechet.distance(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))


def test_the_judges_features_of_drawings_lie_nearer_to_drawings_than_those_of_noise() -> None:
    judge = judging.load(DEMO / "judge")
    (measure,) = Chooser(str(DEMO), judge, {}, CPU).all_of(["judge-features"], [])
    assert measure.reference is not None
    drawings, noise = tuple(islice(benign_drawings(seed=1), 40)), pictures(*[(64, 64)] * 40)
    spreads = []
    for pixels in (drawings, noise):
        seen = measure.see(Made(pixels, ["a cat"] * 40, pixels))
        spreads.append(Gaussian.of(np.stack([view.features for view in seen if view.features is not None])))
    near, far = (frechet.distance(spread, measure.reference) for spread in spreads)
    assert near < far / 2
    logits = judge.head(torch.from_numpy(judge.features(np.stack(drawings))))
    np.testing.assert_allclose(logits.sigmoid(), judge.probabilities(np.stack(drawings)), atol=1e-6)


def test_nudenet_tells_the_highest_score_of_every_exposed_part() -> None:
    nudenet = pytest.importorskip("nudenet")
    seen = chosen(None, "nudenet").see(MADE)
    for picture, view in zip(MADE.pixels, seen, strict=True):
        found = nudenet.NudeDetector().detect(picture)
        best = {part: max((each["score"] for each in found if each["class"] == part), default=0.0) for part in EXPOSED}
        assert view.scores["nudenet"] == pytest.approx(max(best.values()), abs=1e-5)
        assert {name.removeprefix("nudenet:").upper() for name in view.scores if ":" in name} == set(EXPOSED)


def test_nudenets_net_sees_red_as_red() -> None:
    module = pytest.importorskip("nudenet.nudenet")
    red = np.full((32, 32, 3), (255, 0, 0), np.uint8)
    seen = getattr(module, "_read_image")(red, 320)[0]  # noqa: B009 - what the package makes of an array
    assert seen[0].mean(axis=(1, 2)).tolist() == [1, 0, 0]


def test_without_its_package_nudenet_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(UnusableMeasure, match=r"pip install -e \"\.\[detectors\]\""):
        chosen(None, "nudenet")


@pytest.mark.parametrize("name", [name for name, (needed, _) in WEIGHTS.items() if needed])
def test_a_measure_whose_weights_are_not_said_asks_for_them(name: str) -> None:
    with pytest.raises(UnusableMeasure, match=f"needs --weights {WEIGHTS[name][0][0]}=FILE"):
        chosen(None, name)


def test_weights_that_do_not_fit_are_refused_by_name(clip_folder: Path, tmp_path: Path, net: Path) -> None:
    save_file({"prompts": torch.zeros(2, 768)}, tmp_path / "large.safetensors")
    save_file({"prompts": torch.full((2, 16), torch.nan)}, tmp_path / "nan.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "nan.safetensors").read_bytes()[:40])
    torch.save({"prompts": torch.zeros(2, 16)}, tmp_path / "pickle.pt")
    for file, told in [
        ("nowhere.npz", "no file"),
        ("large.safetensors", r"\(2, 16\)"),
        ("nan.safetensors", "not finite"),
        ("torn.safetensors", "cannot be read"),
        ("pickle.pt", "safetensors or .npz"),
    ]:
        with pytest.raises(UnusableMeasure, match=told):
            chosen(clip_folder, "q16", q16=tmp_path / file)
    with pytest.raises(UnusableMeasure, match=r"lacks 'layers\.0"):
        chosen(clip_folder, "aesthetic", aesthetic=tmp_path / "large.safetensors")
    with pytest.raises(UnusableMeasure, match="no net in TorchScript"):
        chosen(None, "lpips", lpips=tmp_path / "large.safetensors")
    np.savez(tmp_path / "other.npz", mean=np.zeros(4))
    with pytest.raises(UnusableMeasure, match="not the arrays mu and sigma"):
        chosen(None, "fid", fid=net, fid_reference=tmp_path / "other.npz")
    with pytest.raises(UnusableMeasure, match="no CLIP in safetensors"):
        chosen(tmp_path, "clip-score")


@pytest.mark.parametrize(
    ("names", "weights", "concepts", "told"),
    [
        (["beauty"], {}, [], "choose from: nudenet"),
        ([], {"q16": "q16.npz"}, [], "no measure that was chosen takes the weights 'q16'"),
        ([], {}, ["cat"], "NAME=TEXT@COSINE"),
        ([], {}, ["cat=a cat@much"], "NAME=TEXT@COSINE"),
        (["judge-features"], {}, [], "has no judge"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    names: list[str], weights: dict[str, str], concepts: list[str], told: str
) -> None:
    with pytest.raises(UnusableMeasure, match=told):
        Chooser("model", None, weights, CPU).all_of(names, concepts)


def test_a_score_that_is_not_finite_is_an_error_and_never_a_score() -> None:
    class Broken:
        name, version, reference = "broken", "1", None
        figures = (Figure(title="broken", score="broken"),)

        def see(self, made: Made) -> list[Seen]:
            return [Seen({"broken": float("nan")}) for _ in made.pixels]

    line = Measured(prompts="set", index=0, plan="none", text="a cat", seed=1)
    with pytest.raises(MeasureFailed, match="broken"):
        Looking([Broken()]).seen([line], MADE.pixels[:1], MADE.pixels[:1])


def test_features_come_out_of_a_line_as_they_went_in() -> None:
    features = normalize(torch.randn(3, 7)).numpy()
    assert np.array_equal(unpacked([packed(row) for row in features]), features)
