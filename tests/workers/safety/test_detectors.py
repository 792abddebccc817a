"""Detectors fail closed: whatever one does, a picture that it did not score in full is withheld."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from contract.filter import Filter, FilterConcept
from tests import engines
from tests.workers.safety.faulty import FAULTS, INFO, LIMIT_S, Colours, Fault
from workers.engine.picture import Outcome
from workers.main import UnusableSetting, prepare
from workers.models import LoadedModel
from workers.safety.detectors.choices import DetectorChoice, NudeNetChoice, Pinned, Q16Choice
from workers.safety.detectors.chosen import panel_of
from workers.safety.detectors.detector import Pixels, UnusableDetector, hash_file
from workers.safety.detectors.panel import Panel
from workers.safety.protocol import DetectorError
from workers.settings import Settings

FALLEN = ("hangs", "is slow")  # out of order until the thread comes back, whatever the picture was


def outcomes(model: LoadedModel, panel: Panel, *indices: int) -> list[Outcome]:
    parts = replace(model.parts, detector=panel)
    return engines.run(engines.engine(model, parts=parts), [engines.spec(i, steps=1) for i in indices])


def codes(found: list[Outcome]) -> list[str | None]:
    return [one.failure.code if one.failure else None for one in found]


def wait_until(holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture(scope="module")
def healthy(tiny_model: LoadedModel) -> list[Outcome]:
    """Three pictures, looked at by two detectors that are sound."""
    return outcomes(tiny_model, Panel(tiny_model.detector, [Colours()]), 0, 1, 2)


def test_a_sound_panel_has_every_detectors_scores_in_order(tiny_model: LoadedModel, healthy: list[Outcome]) -> None:
    assert codes(healthy) == [None] * 3
    for one in healthy:
        assert [score.name for score in one.scores[-2:]] == ["redness", "blueness"]
        [alone] = tiny_model.detector.score(one.pixels[None], [one.spec.plan.output])  # type: ignore[index]
        assert [score.score for score in one.scores[:-2]] == pytest.approx([score.score for score in alone], abs=1e-5)
        told = [(each["name"], each["sha256"]) for each in one.applied["output"]["detectors"]]
        own, colours = tiny_model.detector.infos[0], Colours().infos[0]
        assert told == [(info.name, info.sha256) for info in (own, colours)]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_while_a_detector_is_at_fault_every_picture_is_withheld_and_the_worker_not_fit(
    tiny_model: LoadedModel, fault: Fault
) -> None:
    detector = Colours()
    panel = Panel(tiny_model.detector, [detector], LIMIT_S)
    detector.fault = fault
    found = outcomes(tiny_model, panel, 0, 1)
    assert codes(found) == ["detector_error"] * 2
    assert all(one.pixels is None and not one.scores for one in found)
    assert set(panel.troubles) == {"colours"}
    detector.fault = None
    detector.release.set()
    panel.mend()
    wait_until(lambda: not panel.troubles)
    assert codes(outcomes(tiny_model, panel, 0, 1)) == [None] * 2


@pytest.mark.parametrize("name", FAULTS)
def test_a_picture_on_which_a_detector_fails_is_withheld_and_others_go_on(
    tiny_model: LoadedModel, healthy: list[Outcome], name: str
) -> None:
    detector = Colours(FAULTS[name], trips=lambda picture: np.array_equal(picture, healthy[1].pixels))
    panel = Panel(tiny_model.detector, [detector], LIMIT_S)
    found = codes(outcomes(tiny_model, panel, 0, 1, 2))
    assert found[1] == "detector_error"
    if name in FALLEN:
        assert panel.troubles
        detector.release.set()
        wait_until(lambda: not panel.troubles)
    else:
        assert found == [None, "detector_error", None]
    assert not panel.troubles
    assert codes(outcomes(tiny_model, panel, 0, 2)) == [None] * 2


def test_one_that_is_out_of_order_is_asked_nothing_so_that_nobody_waits(tiny_model: LoadedModel) -> None:
    detector = Colours()
    panel = Panel(tiny_model.detector, [detector], LIMIT_S)
    detector.fault = FAULTS["hangs"]
    picture = np.zeros((1, 32, 32, 3), np.uint8)
    for told in (f"colours gave no answer within {LIMIT_S:g} s", "colours is out of order"):
        began = time.monotonic()
        with pytest.raises(DetectorError, match=told):
            panel.score(picture, [None])
    assert time.monotonic() - began < LIMIT_S
    detector.release.set()


def test_a_lost_device_is_told_as_one(tiny_model: LoadedModel) -> None:
    detector = Colours()
    panel = Panel(tiny_model.detector, [detector])

    def lost(*_: object) -> Any:
        raise torch.AcceleratorError("device-side assert")

    detector.fault = lost
    with pytest.raises(torch.AcceleratorError):
        panel.score(np.zeros((1, 32, 32, 3), np.uint8), [None])


def test_text_concepts_are_proved_as_well(tiny_folder: Path) -> None:
    model = engines.load(tiny_folder)
    with torch.no_grad():
        model.detector._text_concepts._text_model.text_projection.weight[0, 0] = float("nan")  # type: ignore[union-attr]
    with pytest.raises(UnusableDetector, match="clip-concepts gave a score that is not finite"):
        Panel(model.detector)


def test_a_worker_announces_what_its_panel_scores(tiny_model: LoadedModel) -> None:
    info = tiny_model.judged_by(Panel(tiny_model.detector, [Colours()])).info
    assert info.concepts == (*tiny_model.info.concepts, "redness", "blueness")
    assert [each.name for each in info.detectors] == ["clip-checker", "clip-concepts", "colours", "prompt-concepts"]
    assert INFO in info.detectors
    assert all(len(each.sha256) == 64 for each in info.detectors)


@pytest.fixture(scope="module")
def q16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("q16") / "q16.safetensors"
    save_file({"prompts": torch.randn(2, 32, generator=torch.Generator().manual_seed(1))}, file)
    return file


def noise(pictures: int) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (pictures, 32, 32, 3), dtype=np.uint8)


def test_q16_is_a_softmax_over_its_prompts_through_the_checkers_clip(tiny_model: LoadedModel, q16: Path) -> None:
    panel = panel_of([Q16Choice(name="q16", file=q16, threshold=0.4)], tiny_model.detector, 30)
    from safetensors.torch import load_file

    prompts = torch.nn.functional.normalize(load_file(q16)["prompts"])
    with torch.no_grad():
        expected = (100 * tiny_model.detector.embed(noise(2)) @ prompts.T).softmax(1)[:, 1].tolist()
    found = [scores[-1] for scores in panel.score(noise(2), [None] * 2)]
    assert [score.score for score in found] == pytest.approx(expected, abs=1e-5)
    assert [score.flagged for score in found] == [value > 0.4 for value in expected]
    assert {(score.name, score.detector, score.threshold) for score in found} == {("inappropriate", "q16", 0.4)}


def test_nudenet_scores_every_exposed_part(tiny_model: LoadedModel) -> None:
    nudenet = pytest.importorskip("nudenet")
    panel = panel_of([NudeNetChoice(name="nudenet", threshold=0.3)], tiny_model.detector, 30)
    [scores] = panel.score(noise(1), [Filter(concepts=(FilterConcept(name="x", text="y", threshold=1),))])
    found = {
        each["class"].lower().replace("_", " "): each["score"] for each in nudenet.NudeDetector().detect(noise(1)[0])
    }
    parts = [score for score in scores if score.detector == "nudenet"]
    assert len(parts) == 5
    for score in parts:
        assert score.score == pytest.approx(found.get(score.name, 0.0), abs=1e-4)
        assert (score.category, score.threshold) == ("sexual", 0.3)


WRONG = "f" * 64


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ([{"name": "nudenet", "sha256": WRONG}], "nudenet has the SHA-256 [0-9a-f]{64}, not f+ as pinned"),
        ([{"name": "q16", "file": "{q16}", "sha256": WRONG}], "q16 has the SHA-256"),
        ([{"name": "clip-checker", "sha256": WRONG}], "clip-checker has the SHA-256"),
        ([{"name": "clip-concepts", "sha256": WRONG}], "clip-concepts has the SHA-256"),
        ([{"name": "nudenet", "file": "nowhere.onnx"}], "there is no file nowhere.onnx"),
        ([{"name": "nudenet", "file": "{q16}"}], "is no net in ONNX"),
        ([{"name": "q16", "file": "nowhere.npz"}], "there is no file nowhere.npz"),
        ([{"name": "q16", "file": "{folder}/torn.safetensors"}], "cannot be read"),
        ([{"name": "q16", "file": "{folder}/nan.safetensors"}], "not finite"),
        ([{"name": "q16", "file": "{folder}/large.safetensors"}], r"\(2, 32\)"),
        ([{"name": "q16", "file": "{folder}/pickle.pt"}], r"no \.safetensors or \.npz file"),
        ([{"name": "q16", "file": "{q16}"}] * 2, "chosen more than once: q16"),
    ],
)
def test_a_detector_that_cannot_be_had_as_it_should_be_keeps_the_worker_from_starting(
    tiny_folder: Path, q16: Path, tmp_path: Path, choices: list[dict[str, str]], told: str
) -> None:
    if choices[0]["name"] == "nudenet":
        pytest.importorskip("nudenet")
    save_file({"prompts": torch.zeros(2, 768)}, tmp_path / "large.safetensors")
    save_file({"prompts": torch.full((2, 32), torch.nan)}, tmp_path / "nan.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(q16.read_bytes()[:40])
    torch.save({"prompts": torch.zeros(2, 32)}, tmp_path / "pickle.pt")
    written = [{k: v.format(q16=q16, folder=tmp_path) for k, v in choice.items()} for choice in choices]
    settings = Settings.model_validate(
        {"model": str(tiny_folder), "device": "cpu", "data": tmp_path, "detectors": written}
    )
    with pytest.raises(UnusableSetting, match=f"^SEEMLY_DETECTORS: .*{told}"):
        prepare(settings)


def test_those_that_are_as_pinned_start(tiny_model: LoadedModel, q16: Path) -> None:
    own = {info.name: info.sha256 for info in tiny_model.info.detectors}
    choices: list[DetectorChoice] = [
        Pinned(name="clip-checker", sha256=own["clip-checker"]),
        Pinned(name="clip-concepts", sha256=own["clip-concepts"]),
        Q16Choice(name="q16", file=q16, sha256=hash_file(q16)),
    ]
    assert "q16" in [info.name for info in panel_of(choices, tiny_model.detector, 30).infos]


def test_without_its_package_nudenet_says_what_to_install(
    tiny_model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nudenet", None)
    with pytest.raises(UnusableDetector, match=r"pip install -e \"\.\[detectors\]\""):
        panel_of([NudeNetChoice(name="nudenet")], tiny_model.detector, 30)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("nudenet", "must be a JSON list"),
        ('[{"name": "nudity"}]', "must be one of 'clip-checker'"),
        ('[{"name": "nudenet", "limit": 3}]', "not a field"),
        ('[{"name": "nudenet", "threshold": 0.1}]', "at least 0.25"),
        ('[{"name": "q16"}]', "is required"),
        ('[{"name": "clip-checker", "sha256": "12ab"}]', "pattern"),
    ],
)
def test_a_setting_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, written: str, told: str) -> None:
    from pydantic import ValidationError

    from contract.wording import settings_wording

    monkeypatch.setenv("SEEMLY_DETECTORS", written)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert "SEEMLY_DETECTORS" in settings_wording(refused.value)
    assert told in settings_wording(refused.value)
