"""A run and its manifest: the same numbers again, to the digit; what is refused; the report made of it."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from contract.plan import SafetyPlan
from lab.evaluation.commands import app
from lab.evaluation.manifest import Manifest
from lab.evaluation.results import Measured, Results, read

DEMO = Path(__file__).parents[2] / "models" / "demo"


def evaluate(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "400"})


def timeless(file: Path) -> list[Measured]:
    return [replace(line, seconds=0.0) for line in read(file)[1]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with measures, pictures, prompts of two sizes and a plan written out."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "own.csv").write_text(
        "prompt,seed,guidance_scale,width,height\na skull,5,6,64,64\na cat,6,,,\na dog,7,3,96,64\n"
    )
    (folder / "plans.json").write_text(
        json.dumps({"removed": {"guidance": {"method": "sega", "concepts": [{"text": "a skull"}]}}})
    )
    out = folder / "run.jsonl"
    result = evaluate(
        "run", "--model", DEMO, "--prompts", folder / "own.csv", "--prompts", "ambiguous", "--limit", 3, "--steps", 4,
        "--plan", "erased:uce-all", "--plans", folder / "plans.json", "--measure", "judge-features", "--keep-pictures",
        "--variants", DEMO.parent / "variants", "--out", out,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    return out


def test_a_run_is_repeated_to_the_digit_from_its_manifest(measured: Path, tmp_path: Path) -> None:
    result = evaluate("run", "--manifest", measured.with_suffix(".manifest.json"), "--out", tmp_path / "again.jsonl")
    assert result.exit_code == 0, result.output
    first, again = timeless(measured), timeless(tmp_path / "again.jsonl")
    assert len(first) == 6 * 3
    assert again == first
    assert all(line.features for line in first)
    made = Manifest.read(tmp_path / "again.manifest.json")
    assert made == Manifest.read(measured.with_suffix(".manifest.json"))
    assert set(made.found.detectors) == {"clip-checker", "judge", "judge-features"}
    assert made.found.prompts["own"].seeds == (5, 6, 7)
    assert set(made.found.variants) == {"uce-all"}
    assert made.under.libraries["torch"].startswith("2.")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda asked, found: found.update(weights_sha256="0" * 64), "weights_sha256"),
        (lambda asked, found: found["prompts"]["own"].update(sha256="0"), "prompts: own"),
        (lambda asked, found: found["variants"].update({"uce-all": "0"}), "variants: uce-all"),
        (lambda asked, found: found["detectors"]["judge"].update(version="0"), "detectors: judge"),
        (lambda asked, found: asked.update(model="/nowhere"), "neither a folder nor a hub id"),
        (lambda asked, found: found.clear(), "no manifest"),
        (lambda asked, found: asked["prompts"][0].update(limit=0), "no manifest"),
    ],
    ids=["weights", "prompts", "variant", "judge", "model", "form", "limit"],
)
def test_a_manifest_that_cannot_be_repeated_says_what_differs(
    measured: Path, tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], told: str
) -> None:
    content = json.loads(measured.with_suffix(".manifest.json").read_text())
    change(content["asked"], content["found"])
    (tmp_path / "changed.json").write_text(json.dumps(content))
    result = evaluate("run", "--manifest", tmp_path / "changed.json", "--out", tmp_path / "again.jsonl")
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "again.jsonl").exists()


def test_a_manifest_leaves_nothing_else_to_be_said(measured: Path) -> None:
    result = evaluate("run", "--manifest", measured.with_suffix(".manifest.json"), "--steps", 3, "--plan", "sega")
    assert result.exit_code == 2
    assert "--plan, --steps" in result.output


def test_a_run_that_goes_on_with_other_plans_has_one_manifest_for_all(tmp_path: Path) -> None:
    for words in (["--plan", "negative", "--limit", 2], ["--plan", "sega", "--limit", 1]):
        result = evaluate(
            "run", "--model", DEMO, "--prompts", "benign", "--steps", 2, "--out", tmp_path / "run.jsonl", *words
        )
        assert result.exit_code == 0, result.output
    manifest = Manifest.read(tmp_path / "run.manifest.json")
    assert list(manifest.asked.plans) == ["none", "negative", "sega"]
    assert [(each.source, each.limit) for each in manifest.asked.prompts] == [("benign", 2)]
    assert manifest.found.prompts["benign"].count == 2
    result = evaluate(
        "run", "--model", DEMO, "--steps", 2, "--measure", "judge-features", "--out", tmp_path / "run.jsonl"
    )
    assert result.exit_code == 2
    assert "begun with another model or other settings" in result.output


def test_the_report_holds_every_picture_and_hides_unsafe_ones(measured: Path, tmp_path: Path) -> None:
    result = evaluate("report", measured, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    lines = read(measured)[1]
    with (tmp_path / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["plan"], row["text"], float(row["distance"])) for row in rows] == [
        (line.plan, line.text, line.distance) for line in lines
    ]
    markdown = (tmp_path / "report.md").read_text()
    assert "## own" in markdown
    assert "| removed | 3 |" in markdown
    assert "Fréchet, judge-features" in markdown
    page = (tmp_path / "report.html").read_text()
    unsafe = sum(line.flagged or bool(line.unsafe) for line in lines)
    assert unsafe > 0
    assert page.count('<label><input type="checkbox"') == unsafe
    assert page.count("<img ") == len(lines)
    assert "<script" not in page
    assert "http" not in page
    assert (tmp_path / "run.manifest.json").read_text() == measured.with_suffix(".manifest.json").read_text()


def test_parquet_says_the_same_as_csv(measured: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert evaluate("report", measured, "--out", tmp_path).exit_code == 0
    table = parquet.read_table(tmp_path / "pictures.parquet").to_pylist()
    with (tmp_path / "pictures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{name: "" if value is None else str(value) for name, value in row.items()} for row in table] == rows


def test_kept_pictures_are_those_that_were_measured_and_lost_ones_come_again(measured: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run.jsonl"
    for path in measured.parent.iterdir():
        (shutil.copytree if path.is_dir() else shutil.copy)(path, tmp_path / path.name)
    kept = tmp_path / "run.pictures" / "own"
    plain, removed = (np.asarray(Image.open(kept / plan / "00002.png")).astype(int) for plan in ("none", "removed"))
    assert plain.shape == (64, 96, 3)
    line = next(line for line in read(copy)[1] if (line.prompts, line.plan, line.index) == ("own", "removed", 2))
    assert np.abs(plain - removed).mean() / 255 == pytest.approx(line.distance, abs=1e-5)
    content = (kept / "removed" / "00002.png").read_bytes()
    (kept / "removed" / "00002.png").unlink()
    result = evaluate("run", "--manifest", copy.with_suffix(".manifest.json"), "--keep-pictures", "--out", copy)
    assert result.exit_code == 0, result.output
    assert (kept / "removed" / "00002.png").read_bytes() == content


@pytest.mark.parametrize("changed", ["a lion,6,", "a cat,9,", "a cat,6,5"], ids=["text", "seed", "guidance"])
def test_a_file_of_prompts_that_has_changed_is_not_gone_on_with(
    tiny_folder: Path, tmp_path: Path, changed: str
) -> None:
    def run(second: str, *words: object) -> Result:
        (tmp_path / "own.csv").write_text(f"prompt,seed,guidance_scale\na dog,5,\n{second}\na fox,7,\n")
        asked = ["run", "--model", tiny_folder, "--prompts", tmp_path / "own.csv", "--plan", "none", "--steps", 1]
        return evaluate(*asked, "--out", tmp_path / "run.jsonl", *words)

    assert run("a cat,6,", "--limit", 2).exit_code == 0
    before = (tmp_path / "run.jsonl").read_bytes()
    for words in ((), ("--limit", 1)):
        result = run(changed, *words)
        assert (result.exit_code, "other prompts called 'own'" in result.output) == (2, True), result.output
    assert (tmp_path / "run.jsonl").read_bytes() == before
    assert run("a cat,6,").exit_code == 0
    assert len(read(tmp_path / "run.jsonl")[1]) == 2 + 3


def test_one_name_for_two_files_of_prompts_makes_no_report(tmp_path: Path) -> None:
    for name, text in (("one", "a cat"), ("other", "a dog")):
        Results(tmp_path / f"{name}.jsonl", {"steps": 1}).add([Measured("own", 0, "none", text, 1)])
    result = evaluate("report", tmp_path / "one.jsonl", tmp_path / "other.jsonl", "--out", tmp_path / "report")
    assert (result.exit_code, "own stands for different prompts" in result.output) == (2, True), result.output


def test_one_name_for_two_plans_makes_no_report(measured: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(measured.with_suffix(".manifest.json"))
    plans = manifest.asked.plans | {"removed": SafetyPlan.from_short_form("negative")}
    shutil.copy(measured, tmp_path / "other.jsonl")
    other = manifest.model_copy(update={"asked": manifest.asked.model_copy(update={"plans": plans})})
    other.write(tmp_path / "other.manifest.json")
    for words in (["report", "--out", tmp_path], ["summary"]):
        result = evaluate(*words, measured, tmp_path / "other.jsonl")
        assert result.exit_code == 2
        assert "removed stands for different plans" in result.output


def test_one_name_for_two_variants_makes_no_report(measured: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(measured.with_suffix(".manifest.json"))
    files = [tmp_path / "one.jsonl", tmp_path / "other.jsonl"]
    for file, sha256 in zip(files, ("ab" * 32, "cd" * 32), strict=True):
        shutil.copy(measured, file)
        found = manifest.found.model_copy(update={"variants": {"gone": sha256}})
        manifest.model_copy(update={"found": found}).write(file.with_suffix(".manifest.json"))
    result = evaluate("summary", *files)
    assert (result.exit_code, "gone stands for different weights" in result.output) == (2, True), result.output
    assert evaluate("summary", files[0]).exit_code == 0


def test_a_model_without_a_judge_is_measured_through_clip_on_i2ps_columns(
    tiny_folder: Path, clip_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "i2p.csv").write_text(
        "prompt,categories,sd_seed,sd_guidance_scale,sd_image_width,sd_image_height\n"
        "a quiet street,violence,2231119101,7.5,32,48\na cat,hate,3,9,512,512\n"
    )
    asked = ["run", "--model", tiny_folder, "--prompts", tmp_path / "i2p.csv", "--plan", "none", "--steps", 2]
    asked += ["--out", tmp_path / "run.jsonl", "--measure", "clip-score", "--concept", "cat=a cat@0.1"]
    asked += ["--weights", f"clip={clip_folder}"]
    assert "--native-size" in evaluate(*asked).output
    result = evaluate(*asked, "--native-size")
    assert result.exit_code == 0, result.output
    lines = read(tmp_path / "run.jsonl")[1]
    told = [(line.categories, line.seed, line.failure) for line in lines]
    assert told == [("violence", 2231119101, None), ("hate", 3, None)]
    assert all(set(line.scores or {}) == {"clip-score", "concept:cat"} for line in lines)
    assert evaluate("report", tmp_path / "run.jsonl", "--out", tmp_path).exit_code == 0
    report = (tmp_path / "report.md").read_text()
    assert "| CLIP score | cat ≥ 0.1 | cat, mean | by any of these |" in report
    tables = report.split("## ")[1:]
    assert [table.splitlines()[0] for table in tables] == ["i2p", "i2p: hate", "i2p: violence"]
    assert ["| none | 1 |" in table for table in tables] == [False, True, True]


def test_files_of_different_runs_make_no_report(measured: Path, tmp_path: Path) -> None:
    (tmp_path / "other.jsonl").write_text(json.dumps({"steps": 1}) + "\n")
    result = evaluate("report", measured, tmp_path / "other.jsonl", "--out", tmp_path / "report")
    assert result.exit_code == 2
    assert "different models, settings or measures" in result.output
    assert evaluate("report", tmp_path / "nowhere.jsonl", "--out", tmp_path / "report").exit_code == 2
