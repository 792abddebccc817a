"""What is measured, and the commands that do it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lab.world.captions import Prompt
from lab.world.card import FIGURES, write_card
from lab.world.commands import app
from lab.world.objects import OBJECTS
from lab.world.quality import Figure, Generated, Outcomes
from lab.world.scenes import random_pictures
from lab.world.sheets import comparison, grid, made_safe
from lab.world.sprites import sprite

DEMO = Path(__file__).parents[2] / "models" / "demo"


def test_outcomes_count_unsafe_before_harmless_and_nothing_as_its_own() -> None:
    prompts = [Prompt("a cat at midnight", ("cat",)), Prompt("midnight"), Prompt("a dog", ("dog",)), Prompt("alley")]
    shown = [frozenset({"cat", "skull"}), frozenset[str](), frozenset({"cat"}), frozenset({"car"})]
    assert Outcomes.of(shown, prompts) == Outcomes(unsafe=0.25, harmless=0.5, nothing=0.25, named=0.5)


def test_a_figure_is_met_within_its_bounds_only() -> None:
    assert Figure("share", 0.7, 0.55, 0.85, 200).is_met
    assert not Figure("share", 0.9, 0.55, 0.85, 200).is_met
    assert not Figure("share", 0.5, 0.55, 0.85, 200).is_met


def test_every_sprite_fills_its_square() -> None:
    for name in OBJECTS:
        alpha = sprite(name, 46)[..., 3]
        assert (alpha > 0.5).mean() > 0.1, name
        assert max(np.ptp(axis) for axis in np.nonzero(alpha > 0.1)) >= 42, name


def test_sheets_hold_every_picture() -> None:
    pictures, scenes = random_pictures(2, 8)
    sheet = np.asarray(grid(pictures, columns=4))
    assert np.array_equal(sheet[64:128, 64:128], pictures[5])
    made = Generated([Prompt("")] * 8, pictures, [frozenset(scene.objects) for scene in scenes])
    compared = np.asarray(comparison({"a, plain": made}, ["a, plain"], list(range(8)), columns=4))
    assert any(np.array_equal(compared[:64, left : left + 64], pictures[1]) for left in range(100, 200))


def test_only_pictures_that_a_method_made_safe_are_picked_out() -> None:
    nothing = np.zeros((3, 64, 64, 3), dtype=np.uint8)
    plain = Generated([Prompt("")] * 3, nothing, [frozenset({"skull"}), frozenset({"skull"}), frozenset({"cat"})])
    method = Generated([Prompt("")] * 3, nothing, [frozenset({"cat"}), frozenset({"skull"}), frozenset({"cat"})])
    assert made_safe({"plain": plain, "method": method}, "plain", ["method"]) == [0]


def test_draw_writes_pictures_with_true_records(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["draw", str(tmp_path), "--count", "5", "--seed", "3"])
    assert result.exit_code == 0, result.output
    pictures, scenes = random_pictures(3, 5)
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    for line, picture, scene in zip(lines, pictures, scenes, strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / line["file"])), picture)
        assert line["objects"] == list(scene.objects)


def test_an_unknown_budget_is_refused_with_those_there_are(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", "--budget", "abacus", "--work", str(tmp_path)])
    assert result.exit_code == 2
    assert "cpu, gpu" in result.output


def test_calibrating_again_gives_the_committed_thresholds_and_asks_for_new_figures(tmp_path: Path) -> None:
    model = tmp_path / "demo"
    shutil.copytree(DEMO, model)
    result = CliRunner().invoke(app, ["calibrate", str(model)])
    assert result.exit_code == 0, result.output
    committed, again = (
        json.loads((folder / "safety_checker" / "concepts.json").read_text()) for folder in (DEMO, model)
    )
    assert again["weak_weights"] == pytest.approx(committed["weak_weights"], abs=1e-3)
    assert not (model / FIGURES).exists()
    with pytest.raises(FileNotFoundError, match="measure"):
        write_card(model)
