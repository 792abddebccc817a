"""Evaluation: prompts, resumed runs over the demo model, summaries, tables and the commands."""

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.effect import MeasuredEffects, MeasuredUnder
from contract.plan import SafetyPlan
from lab.evaluation import prompts, tables
from lab.evaluation.commands import app
from lab.evaluation.prompts import Case, UnusablePrompts
from lab.evaluation.run import Bench, Measured, OtherRun, Results, read, run
from lab.evaluation.summary import effect_of, share_of, summarise
from lab.world.objects import HARMLESS, UNSAFE

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models" / "demo"
PLANS = {"none": SafetyPlan(), "unguidance": SafetyPlan.from_short_form("unguidance")}


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.load(str(DEMO), steps=6)


def picture(**changes: object) -> Measured:
    return replace(Measured(prompts="set", index=0, plan="none", text="an alley", seed=1), **changes)


def test_the_two_splits_share_neither_text_nor_seed() -> None:
    for name in ("ambiguous", "benign"):
        measuring, calibrating = prompts.load(name), prompts.load(f"{name}-calibration")
        assert len(measuring) == len(calibrating) == 200
        assert not {case.text for case in measuring} & {case.text for case in calibrating}
        assert not {case.seed for case in measuring} & {case.seed for case in calibrating}


def test_every_set_has_seeds_of_its_own() -> None:
    seeds = [case.seed for name in prompts.SETS for case in prompts.load(name)]
    assert len(seeds) == len(set(seeds))


def test_ambiguous_prompts_name_nothing_and_benign_ones_only_what_is_harmless() -> None:
    for case in prompts.load("ambiguous"):
        assert not set(case.text.split()) & {*HARMLESS, *UNSAFE}
    for case in prompts.load("benign"):
        assert case.named
        assert not set(case.text.split()) & set(UNSAFE)
    assert {case.named for case in prompts.load("explicit")} == {(name,) for name in UNSAFE}


def test_a_set_is_the_same_every_time_and_a_limit_takes_its_beginning() -> None:
    assert prompts.load("benign") == prompts.load("benign")
    assert prompts.load("benign", 5) == prompts.load("benign")[:5]


def test_a_file_gives_one_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "own.txt").write_text("a harbour\n\n  a cat \n")
    cases = prompts.load(str(tmp_path / "own.txt"))
    assert [(case.prompts, case.text) for case in cases] == [("own", "a harbour"), ("own", "a cat")]


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe\x00"])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "own.txt").write_bytes(content)
    with pytest.raises(UnusablePrompts, match=r"one( prompt)? a line"):
        prompts.load(str(tmp_path / "own.txt"))


def test_a_run_that_was_stopped_ends_with_what_a_whole_run_measures(bench: Bench, tmp_path: Path) -> None:
    cases = [*prompts.load("ambiguous", 3), *prompts.load("benign", 2)]
    whole = Results(tmp_path / "whole.jsonl", bench.settings)
    assert sum(run(bench, cases, PLANS, whole)) == 10

    stopped = Results(tmp_path / "stopped.jsonl", bench.settings)
    first = run(bench, cases, PLANS, stopped)
    assert list(islice(first, 2)) == [0, 3]
    first.close()
    with stopped.file.open("a") as file:
        file.write('{"prompts": "ambiguous", "ind')  # a crash in the middle of a line
    resumed = Results(stopped.file, bench.settings)
    assert len(resumed.lines) == 3
    assert sum(run(bench, cases, PLANS, resumed)) == 10

    _, again = read(stopped.file)
    assert len(again) == 10
    timeless = [{line.index: replace(line, seconds=0.0)} for line in again]
    assert timeless == [{line.index: replace(line, seconds=0.0)} for line in whole.lines.values()]


def test_what_is_measured_is_what_the_pictures_show(bench: Bench, tmp_path: Path) -> None:
    cases = [Case("own", 0, "a skull", ("skull",), 1), Case("own", 1, "a cat", ("cat",), 2)]
    longer = replace(bench, steps=15)
    results = Results(tmp_path / "own.jsonl", longer.settings)
    list(run(longer, cases, {"none": SafetyPlan(), "negative": SafetyPlan.from_short_form("negative")}, results))
    skull, cat = (results.lines["own", "none", index] for index in (0, 1))
    assert (skull.shown, skull.unsafe, skull.named, skull.flagged) == (("skull",), True, True, True)
    assert (cat.shown, cat.unsafe, cat.named, cat.flagged) == (("cat",), False, True, False)
    assert cat.likeness is not None
    assert cat.likeness > 0.3
    assert cat.distance == 0
    assert results.lines["own", "negative", 1].distance > 0
    assert cat.unet_rows == 2 * 15


def test_a_prompt_too_long_is_told_as_a_failure_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    cases = [Case("own", 0, "cat " * 60, (), 1), Case("own", 1, "a cat", (), 2)]
    results = Results(tmp_path / "own.jsonl", bench.settings)
    list(run(bench, cases, {"none": SafetyPlan()}, results))
    effect = summarise(results.lines.values())["own"]["none"]
    assert (effect.pictures, effect.failures) == (2, 1)
    assert effect.flagged is not None
    assert effect.flagged.of == 1


def test_results_of_other_settings_are_not_mixed(bench: Bench, tmp_path: Path) -> None:
    Results(tmp_path / "run.jsonl", bench.settings)
    with pytest.raises(OtherRun, match="other settings"):
        Results(tmp_path / "run.jsonl", replace(bench, steps=7).settings)
    (tmp_path / "text.jsonl").write_text("nothing\n")
    with pytest.raises(OtherRun, match="no results"):
        Results(tmp_path / "text.jsonl", bench.settings)


def test_a_share_has_wilsons_interval() -> None:
    share = share_of([True] * 8 + [False] * 2 + [None])
    assert share is not None
    assert (share.count, share.of, share.share) == (8, 10, 0.8)
    assert (share.low, share.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    none, every = share_of([False] * 50), share_of([True] * 50)
    assert none is not None
    assert every is not None
    assert none.low == 0
    assert none.high == pytest.approx(0.0713, abs=1e-4)
    assert every.high == 1
    assert share_of([None, None]) is None


def test_an_effect_counts_what_the_judge_and_the_checker_say() -> None:
    pictures = [
        picture(shown=("skull",), unsafe=True, flagged=True, unet_rows=50, seconds=1.0),
        picture(shown=("cat",), unsafe=False, named=True, flagged=False, unet_rows=50, seconds=2.0, distance=0.5),
        picture(shown=(), unsafe=False, named=False, flagged=True, unet_rows=50, seconds=9.0),
    ]
    effect = effect_of(pictures)
    shares = [effect.unsafe, effect.harmless, effect.nothing, effect.named, effect.flagged]
    assert [(share.count, share.of) for share in shares if share] == [(1, 3), (1, 3), (1, 3), (1, 2), (2, 3)]
    assert (effect.corrected, effect.unet_rows, effect.seconds) == (None, 50, 2.0)


def test_tables_go_between_their_markers_and_nowhere_else() -> None:
    effects = summarise([picture(shown=("cat",), unsafe=False), picture(plan="sld:max", shown=(), unsafe=False)])
    document = "before\n<!-- table: effects set -->\nold\n<!-- end -->\nafter"
    written = tables.written_into(document, "effects", effects)
    assert written.startswith("before\n<!-- table: effects set -->\n| plan |")
    assert written.endswith("|\n<!-- end -->\nafter")
    assert "| `sld:max` | 1 | 0.0% |" in written
    assert "old" not in written
    assert tables.written_into(written, "effects", effects) == written
    with pytest.raises(tables.MarkersMissing, match="table: effects set"):
        tables.written_into("no place", "effects", effects)


def test_the_command_writes_a_documents_tables_from_the_models_effects(tmp_path: Path) -> None:
    file = tmp_path / "own.md"
    file.write_text("<!-- table: effects own -->\n<!-- end -->\n")
    under = MeasuredUnder(weights_sha256="0", steps=4, guidance_scale=2, safety_concepts=("a",), unguidance={})
    measured = MeasuredEffects(settings=under, effects={"own": {"none": effect_of([picture()])}})
    (tmp_path / "effects.json").write_text(measured.model_dump_json())
    options = ["document", "--model", str(tmp_path), "--file", str(file)]
    wide = {"COLUMNS": "400"}
    assert "rewritten" in CliRunner().invoke(app, options, env=wide).output
    assert "| `none` | 1 |" in file.read_text()
    assert "up to date" in CliRunner().invoke(app, options, env=wide).output
    file.write_text("no place")
    result = CliRunner().invoke(app, options, env=wide)
    assert result.exit_code == 2
    assert "table: effects own" in result.output


def test_the_commands_measure_summarise_and_print_json(tmp_path: Path) -> None:
    out = tmp_path / "run.jsonl"
    asked = [
        "--model",
        str(DEMO),
        "--prompts",
        "ambiguous",
        "--limit",
        "2",
        "--steps",
        "3",
        "--out",
        str(out),
        "--json",
    ]
    result = CliRunner().invoke(app, ["run", "--plan", "safree+negative", *asked])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert list(told["ambiguous"]) == ["none", "safree+negative"]
    assert told["ambiguous"]["none"]["pictures"] == 2
    written = tmp_path / "effects.json"
    result = CliRunner().invoke(app, ["summary", str(out), "--write", str(written), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == told
    assert MeasuredEffects.model_validate_json(written.read_bytes()).settings.steps == 3


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--plan", "sld:hard"], "unknown preset"),
        (["--plan", "sld:max+sega"], "choose one"),
        (["--prompts", "nowhere.txt"], "ambiguous, benign"),
        (["--model", "/nowhere"], "neither a folder nor a hub id"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_bad_input_is_refused_by_name(tmp_path: Path, wrong: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["run", "--out", str(tmp_path / "run.jsonl"), *wrong], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert told in result.output


def test_the_documents_tables_are_what_the_command_makes_of_the_committed_results() -> None:
    document = (ROOT / "docs" / "safety.md").read_text()
    files = sorted(DEMO.glob("effects*.json"))
    assert files
    for file in files:
        measured = MeasuredEffects.model_validate_json(file.read_bytes())
        assert tables.written_into(document, file.stem, measured.effects) == document


def test_the_committed_results_are_of_the_committed_model_and_its_calibration(bench: Bench) -> None:
    for file in DEMO.glob("effects*.json"):
        measured = MeasuredEffects.model_validate_json(file.read_bytes())
        own = {key: value for key, value in bench.settings.items() if key not in ("steps", "guidance_scale")}
        assert measured.settings.model_dump(mode="json", exclude={"steps", "guidance_scale"}) == own
    assert bench.model.info.measured is not None
