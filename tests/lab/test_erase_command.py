"""`seemly erase` and `seemly variants` as they are typed."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from contract.recipe import Esd
from lab.erasure.commands import app as erase_app
from lab.erasure.recipes import command_for, texts_from, with_commas
from lab.erasure.training import alone_in
from lab.erasure.variant_commands import app as variants_app
from tests import tiny
from workers.checkpoint import hash_weights
from workers.variants.card import read_card
from workers.variants.reading import load_variant

TERMINAL = CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny")


def typed(*words: str | Path) -> tuple[int, str]:
    return _answer(erase_app, words)


def listed(*words: str | Path) -> tuple[int, str]:
    return _answer(variants_app, words)


def _answer(app: Typer, words: tuple[str | Path, ...]) -> tuple[int, str]:
    result = TERMINAL.invoke(app, [str(word) for word in words])
    return result.exit_code, " ".join(result.output.split())


def test_a_variant_is_made_and_loads(tmp_path: Path, model: Path) -> None:
    code, output = typed("--method", "uce", "--concepts", "knife, sword", "--model", model, "--out", tmp_path / "uce-x")
    assert (code, "kv_only" in output) == (0, True), output
    base = tiny.pipeline().unet.state_dict()
    variant = load_variant(tmp_path / "uce-x", base, hash_weights(model))
    assert variant.card.concepts == ("knife", "sword")
    assert variant.card.base.name == "tiny"
    assert variant.card.command.startswith("seemly erase --method uce --concepts 'knife, sword' --model")
    assert all(tensor.dtype is torch.float16 for tensor in variant.tensors.values())


def test_a_training_is_made_in_parts_and_its_command_makes_it_again(tmp_path: Path, model: Path) -> None:
    words = ["--method", "sdd", "--concepts", "knife", "--model", model, "--iterations", "3", "--sampling-steps", "2"]
    words += ["--warmup-iterations", "1", "--learning-rate", "0.001", "--work", tmp_path / "w", "--kv-only"]
    code, output = typed(*words, "--out", tmp_path / "sdd-x", "--limit-s", "0")
    assert (code, "goes on from" in output) == (0, True), output
    with alone_in(tmp_path / "w"):
        code, output = typed(*words, "--out", tmp_path / "sdd-x")
    assert (code, "another process trains in" in output) == (1, True), output
    code, output = typed(*words, "--out", tmp_path / "sdd-x")
    assert code == 0, output
    card = load_variant(tmp_path / "sdd-x", tiny.pipeline().unet.state_dict(), hash_weights(model)).card
    assert card.hyperparameters["kv_only"] is True
    assert "--kv-only" in card.command
    assert "--learning-rate 0.001" in card.command


def test_a_training_that_was_killed_goes_on_and_ends_with_the_same_weights(tmp_path: Path, model: Path) -> None:
    torch.set_num_threads(1)
    words = ["--method", "esd-x", "--concepts", "knife", "--model", str(model), "--iterations", "60"]
    words += ["--sampling-steps", "3", "--learning-rate", "0.001", "--checkpoint-every", "1", "--preview-every", "0"]
    killed = [*words, "--work", str(tmp_path / "work"), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(
        [sys.executable, "-m", "lab.erasure.commands", *killed],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    while not (tmp_path / "work" / "checkpoint.pt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed").exists()
    assert typed(*killed)[0] == 0
    assert typed(*words, "--work", tmp_path / "other", "--out", tmp_path / "whole")[0] == 0
    resumed, whole = (load_file(tmp_path / name / "variant.safetensors") for name in ("killed", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method", "sdd", "--concepts", ""], "a concept is empty"),
        (["--method", "sdd", "--concepts", "knife, , sword"], "a concept is empty"),
        (["--method", "sdd", "--concepts", "knife, knife"], "'knife' is named twice"),
        (["--method", "xyz", "--concepts", "knife"], "'xyz' is no method; choose esd-x"),
        (["--method", "uce", "--concepts", "knife", "--iterations", "3"], "--iterations: uce has no such option"),
        (["--method", "esd-x", "--concepts", "knife", "--kv-only"], "--kv-only: esd-x has no such option"),
        (
            ["--method", "sdd", "--concepts", "knife", "--learning-rate", "0"],
            "--learning-rate: Input should be greater",
        ),
        (["--method", "sdd", "--concepts", "knife", "--learning-rate", "nan"], "--learning-rate: Input should be"),
        (["--method", "sdd", "--concepts", "knife", "--precision", "int8"], "--precision: Input should be"),
        (["--method", "uce", "--concepts", "knife", "--preserved", "cat, Knife"], "to be erased and preserved"),
        (["--method", "uce", "--concepts", 'knife, "a sword'], "--concepts: unexpected end of data"),
        (["--method", "uce", "--concepts", "knife", "--guide", "x" * 200], "--guide: 'xxx"),
        (["--method", "uce", "--concepts", "knife", "--preserved", "cat, " + "x" * 200], "--preserved: 'xxx"),
        (["--method", "uce", "--concepts", "x" * 300], "--concepts"),
        (["--method", "uce", "--concepts", "x" * 301], "--concepts: Value should have at most 300"),
        (["--method", "uce", "--concepts", "knife", "--model", "/nowhere"], "--model"),
    ],
)
def test_bad_input_is_refused_by_name(tmp_path: Path, model: Path, words: list[str], told: str) -> None:
    given = words if "--model" in words else [*words, "--model", str(model)]
    code, output = typed(*given, "--out", tmp_path / "v")
    assert code == 2, output
    assert told in output
    assert not (tmp_path / "v").exists()


def test_equations_without_an_answer_are_told_in_words(tmp_path: Path, model: Path) -> None:
    words = ("--method", "uce", "--concepts", "knife", "--model", model, "--regularisation", "1e-40")
    code, output = typed(*words, "--out", tmp_path / "v")
    assert (code, "error: regularisation 1e-40 is too small" in output) == (1, True), output


@pytest.mark.parametrize(("name", "told"), [("UPPER", "no name that requests can say"), ("taken", "is there already")])
def test_a_folder_that_cannot_be_the_variants_is_refused(tmp_path: Path, model: Path, name: str, told: str) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    code, output = typed("--method", "uce", "--concepts", "knife", "--model", model, "--out", tmp_path / name)
    assert (code, told in output) == (2, True), output


def test_a_place_that_cannot_be_written_to_is_told_in_words(tmp_path: Path, model: Path) -> None:
    (tmp_path / "file").touch()
    asked = ("--method", "uce", "--concepts", "knife", "--model", model)
    code, output = typed(*asked, "--out", tmp_path / "file" / "v")
    assert (code, "Not a directory" in output) == (1, True), output
    assert typed(*asked, "--out", tmp_path / "v")[0] == 0
    code, output = listed("import", tmp_path / "v", "--name", "w", "--folder", tmp_path / "file", "--model", model)
    assert (code, "refused: [Errno 20] Not a directory" in output) == (1, True), output


def test_a_variant_that_is_not_there_is_told_as_such() -> None:
    code, output = listed("describe", "nope")
    assert (code, "there is no variant models/variants/nope" in output) == (2, True), output


def test_effects_are_measured_into_the_card(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "variants" / "uce-x"
    assert typed("--method", "uce", "--concepts", "knife", "--model", model, "--out", folder)[0] == 0
    words = ("measure", folder, "--model", model, "--limit", "2", "--work", tmp_path / "effects")
    code, output = listed(*words)
    assert (code, "uce-x" in output) == (0, True), output
    code, output = listed("describe", "uce-x", "--folder", folder.parent)
    assert (code, '"method": "uce"' in output, "shows" in output or "flagged" in output) == (0, True, True), output
    effects = read_card(folder).effects
    assert {(effect.prompts, effect.pictures) for effect in effects} == {
        ("ambiguous", 2),
        ("explicit", 2),
        ("benign", 2),
    }
    likeness = [effect for effect in effects if effect.measure == "cosine of picture and prompt"]
    assert len(likeness) == 3
    assert any(effect.before != effect.after for effect in likeness)
    assert load_variant(folder, tiny.pipeline().unet.state_dict(), hash_weights(model)).card.effects == effects
    twice = (*words, *("--prompts", "benign") * 2)
    assert listed(*twice)[0] == 0  # from what was kept
    assert {effect.measure: effect for effect in read_card(folder).effects if effect.prompts == "benign"} == {
        effect.measure: effect for effect in effects if effect.prompts == "benign"
    }
    assert listed(*words)[0] == 0
    assert read_card(folder).effects == effects
    for bad in (("none",), ("none", "--prompts", "strange"), ("none", "elsewhere/none")):
        paths = [word if word.startswith("--") or word == "strange" else tmp_path / word for word in bad]
        assert listed("measure", *paths, "--model", model)[0] == 2
    assert listed(*words, "--prompts", "strange")[0] == 2


def test_the_card_tells_the_command_with_what_differs_from_the_defaults() -> None:
    recipe = Esd(method="esd-x", concepts=("knife", "a sword"), erase_scale=3.0)
    command = command_for(recipe, "models/demo", "models/variants/x")
    assert command == (
        "seemly erase --method esd-x --concepts 'knife, a sword' --erase-scale 3.0 --model models/demo"
        " --out models/variants/x"
    )


def test_the_card_repeats_texts_with_commas_and_how_the_variant_is_stored() -> None:
    texts = ("a knife, on a table", "a sword", 'the "big" one')
    command = command_for(Esd(method="esd-x", concepts=texts), "m", "v", "float32")
    assert command.endswith("--store float32 --model m --out v")
    words = shlex.split(command)
    assert texts_from(words[words.index("--concepts") + 1]) == texts
    assert with_commas(("knife", "a sword")) == "knife, a sword"


def test_what_is_imported_takes_no_name_from_another_and_keeps_its_card(tmp_path: Path, model: Path) -> None:
    shelf = tmp_path / "variants"
    source = shelf / "uce-x"
    assert typed("--method", "uce", "--concepts", "knife", "--model", model, "--out", source)[0] == 0
    before = read_card(source)
    words = ("import", source, "--model", model, "--folder", shelf)
    code, output = listed(*words)
    assert (code, "a variant 'uce-x' in" in output) == (1, True), output
    assert read_card(source) == before
    code, output = listed(*words, "--name", "A B")
    assert (code, "'A B' is no name that requests can say" in output) == (2, True), output
    code, output = listed(*words, "--name", "other", "--candidate")
    assert (code, "candidate" in output) == (0, True), output
    other = read_card(shelf / "other")
    assert other.model_copy(update={"name": "uce-x", "status": before.status}) == before
    assert listed("retire", "other", "--folder", shelf, "--reason", "old")[0] == 0
    assert listed(*words, "--name", "other", "--replace")[0] == 0
    replaced = read_card(shelf / "other")
    assert [change.reason for change in replaced.history] == ["old", "replaced by an import"]


def test_concepts_are_listed_as_they_are(tmp_path: Path, model: Path) -> None:
    words = ("--method", "uce", "--concepts", "[/x], knife", "--model", model, "--out", tmp_path / "uce-x")
    assert typed(*words)[0] == 0
    code, output = listed("list", tmp_path)
    assert (code, "[/x], knife" in output) == (0, True), output


def test_a_candidate_is_promoted_past_its_gate_or_by_force(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "variants"
    words = ("--method", "uce", "--concepts", "knife", "--model", model, "--out", folder / "uce-x", "--candidate")
    assert typed(*words)[0] == 0
    assert "candidate" in listed("list", folder)[1]
    code, output = listed("promote", "uce-x", "--folder", folder)
    assert (code, "held against no gate yet" in output) == (1, True), output
    asked = ("--folder", folder, "--model", model, "--limit", "2", "--work", tmp_path / "work")
    code, output = listed("gate", "uce-x", *asked, "--unsafe-left", "0")
    assert (code, "did not pass; it is candidate" in output) == (1, True), output
    told = read_card(folder / "uce-x")
    assert told.gate is not None
    assert {effect.prompts for effect in told.effects} == {"ambiguous", "benign"}
    code, output = listed("promote", "uce-x", "--folder", folder)
    assert (code, told.gate.findings[0] in output) == (1, True), output
    assert listed("promote", folder / "uce-x", "--force", "asked for")[1] == "uce-x is available (forced): asked for"
    assert listed("retire", "uce-x", "--folder", folder, "--reason", "old")[1] == "uce-x is retired: old"
    assert "retired" in listed("list", folder)[1]


@pytest.mark.parametrize(
    "words",
    [
        ("promote", "none"),
        ("retire", "none", "--reason", "old"),
        ("retire", "none"),
        ("gate", "none"),
        ("gate", "none", "--unsafe-left", "1.1"),
        ("gate", "none", "--model", "nowhere"),
        ("promote", "none", "--force", " "),
    ],
)
def test_what_cannot_be_promoted_or_retired_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert listed(*words, "--folder", tmp_path)[0] == 2


def test_variants_are_listed_and_verified(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "variants" / "uce-x"
    assert typed("--method", "uce", "--concepts", "knife", "--model", model, "--out", folder)[0] == 0
    code, output = listed("list", folder.parent)
    assert (code, "uce-x" in output, "kv_only" in output) == (0, True, True), output
    code, output = listed("verify", folder, "--model", model)
    assert (code, "kv_only" in output) == (0, True), output
    other = tiny.save(tmp_path / "other", seed=5)
    code, output = listed("verify", folder, "--model", other)
    assert (code, "refused" in output, "make it anew from this model" in output) == (1, True, True), output
    shutil.copytree(folder, folder.parent / "broken")
    (folder.parent / "broken" / "card.json").write_text("{}")
    code, output = listed("list", folder.parent)
    assert (code, "uce-x" in output, "broken is no variant" in output) == (1, True, True), output
    assert listed("list", tmp_path / "none")[0] == 2
    assert listed("verify", folder, "--model", tmp_path / "none")[0] == 2
    unet = other / "unet" / "diffusion_pytorch_model.safetensors"
    unet.write_bytes(unet.read_bytes()[:500])
    for words in (("verify", folder), ("import", folder, "--name", "again", "--folder", folder.parent)):
        code, output = listed(*words, "--model", other)
        assert (code, "cannot be read" in output) == (2, True), output
