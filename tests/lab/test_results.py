"""Files of results: what a kill leaves, who may write, what lies beside them, and places that cannot be written to."""

import json
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lab.evaluation.commands import app
from lab.evaluation.manifest import Asked, Found, Manifest, Under, manifest_of, pictures_of, reference_of
from lab.evaluation.measures.looking import file_of
from lab.evaluation.results import Measured, OtherRun, Results, read

SETTINGS = {"weights_sha256": "0", "steps": 4}
FIRST = Measured(prompts="set", index=0, plan="none", text="猫\u2028", seed=1, scores={"q16": 0.5})
SECOND = replace(FIRST, index=1, text="a dog")


def evaluate(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(word) for word in words], env={"COLUMNS": "400"})
    return result.exit_code, result.output


def test_a_kill_at_any_byte_costs_only_the_line_that_was_being_written(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    Results(file, SETTINGS).add([FIRST])
    written = file.read_bytes()
    assert written.count(b"\n") == 2
    for at in range(len(written) + 1):
        file.write_bytes(written[:at])
        Results(file, SETTINGS).add([SECOND])
        settings, pictures = read(file)
        assert settings == SETTINGS
        assert pictures == ([FIRST, SECOND] if at == len(written) else [SECOND])


def test_one_run_at_a_time_writes_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    first, second = Results(file, SETTINGS), Results(file, SETTINGS)
    with first.alone():
        first.add([FIRST])
        for other in (lambda: Results(file, SETTINGS), lambda: second.alone().__enter__()):
            with pytest.raises(OtherRun, match="another run writes to"):
                other()
    assert not second.lines
    with second.alone():
        assert list(second.lines.values()) == [FIRST]


def test_what_is_no_file_of_results_is_left_as_it_is(tmp_path: Path) -> None:
    for content in ("notes\nof mine", "[1]\n", '{"steps": 4}\n{"a": 1}\n', '{"steps": 4}\n[1]\n'):
        (tmp_path / "own").write_text(content)
        with pytest.raises(OtherRun, match="no results"):
            Results(tmp_path / "own", SETTINGS)
        assert (tmp_path / "own").read_text() == content


def test_what_lies_beside_results_is_theirs_alone() -> None:
    for beside in (manifest_of, pictures_of, lambda file: reference_of(file, "fid")):
        assert len({beside(Path("data") / name) for name in ("run.a", "run.b", "run.jsonl")}) == 3
    assert manifest_of(Path("data/run.jsonl")) == Path("data/run.manifest.json")


def test_a_manifest_is_never_there_in_part(tmp_path: Path) -> None:
    found = {"weights_sha256": "0", "steps": 4, "guidance_scale": 2.0, "safety_concepts": (), "unguidance": {}}
    manifest = Manifest(
        asked=Asked(model="m", prompts=(), plans={}, concepts=tuple(str(number) for number in range(5000))),
        found=Found.model_validate({**found, "prompts": {}, "variants": {}, "detectors": {}}),
        under=Under(libraries={}, threads=1, device="cpu", processor="x"),
    )
    file = tmp_path / "run.manifest.json"
    manifest.write(file)
    writing = threading.Thread(target=lambda: [manifest.write(file) for _ in range(50)])
    writing.start()
    while writing.is_alive():
        assert Manifest.read(file) == manifest
    writing.join()


def test_every_name_has_a_folder_of_its_own_for_pictures(tmp_path: Path) -> None:
    names = ["..", "a/b", "猫" * 100, "猫" * 99 + "犬", "x" * 400]
    files = {file_of(tmp_path, replace(FIRST, prompts=name, plan=plan)) for name in names for plan in ("p", name)}
    assert len(files) == 2 * len(names)
    for file in files:
        file.parent.mkdir(parents=True)
        assert file.resolve().is_relative_to(tmp_path)


@pytest.fixture
def wrong(tmp_path: Path) -> Path:
    (tmp_path / "file").touch()
    (tmp_path / "list.jsonl").write_text("[1]\n")
    Results(tmp_path / "some.jsonl", SETTINGS).add([FIRST])
    (tmp_path / "report" / "pictures.csv").mkdir(parents=True)
    (tmp_path / "plans.json").write_text(json.dumps({"\n": {}}))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("report", "some.jsonl", "--out", "file/report"), "Not a directory"),
        (("report", "some.jsonl", "--out", "report"), "Is a directory"),
        (("report", "list.jsonl", "--out", "other"), "no object of settings"),
        (("summary", "some.jsonl", "--write", "effects.json"), "do not say guidance_scale"),
        (("run", "--plans", "plans.json", "--out", "run.jsonl"), "no name for a plan"),
        (("run", "--prompts", "x" * 5000, "--out", "run.jsonl"), "is neither a file"),
    ],
)
def test_what_cannot_be_read_or_written_is_told_in_words(
    wrong: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(wrong)
    code, output = evaluate(*words)
    assert (code, told in output) == (2, True), output


def test_a_run_that_cannot_write_its_results_says_so(tiny_folder: Path, wrong: Path) -> None:
    asked = ("run", "--model", tiny_folder, "--prompts", "benign", "--plan", "none", "--limit", 1, "--steps", 1)
    code, output = evaluate(*asked, "--out", wrong / "file" / "run.jsonl")
    assert (code, "File exists" in output) == (2, True), output
