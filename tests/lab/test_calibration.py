"""Calibration: chooses from the model's own checker and CLIP, and writes what serves."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.concept_text import joined
from lab.evaluation import prompts
from lab.evaluation.calibration import Calibrating
from lab.evaluation.commands import app
from lab.evaluation.run import Bench, Results
from lab.evaluation.wordings import WORLD, Wordings
from lab.world.tokenizer import MAX_TOKENS, build_tokenizer

DEMO = Path(__file__).parents[2] / "models" / "demo"
FEW = Wordings(guidance=(("danger",),), single=("danger",), multi=(("weapons", "drugs"),))


def chance(share: float, count: int) -> float:
    """Two standard errors of a share after two successes and two failures are added."""
    near = (share * count + 2) / (count + 4)
    return 2.0 * float((near * (1 - near) / (count + 4)) ** 0.5)


def test_it_will_not_start_with_a_judge_at_hand(tmp_path: Path) -> None:
    bench = Bench.load(str(DEMO), steps=3)
    assert bench.judge is not None
    with pytest.raises(ValueError, match="judge"):
        Calibrating(bench, [], [], FEW, Results(tmp_path / "work.jsonl", bench.bare_settings))


def test_every_stage_chooses_by_its_rule(tmp_path: Path) -> None:
    bench = Bench.load(str(DEMO), steps=8, with_judge=False)
    risky, harmless = prompts.load("ambiguous-calibration", 4), prompts.load("benign-calibration", 6)
    few = replace(FEW, guidance=(("danger",), ("drugs",)))
    results = Results(tmp_path / "work.jsonl", bench.bare_settings)
    calibrating = Calibrating(bench, risky, harmless, few, results)
    assert sum(calibrating.stages()) <= calibrating.pictures
    chosen = calibrating.chosen
    assert chosen is not None
    evidence = chosen.evidence
    assert all(line.shown is None for line in results.lines.values())

    candidates = [row for row in evidence["guidance"] if row["concepts"]]
    least = min(row["mean"] for row in candidates)
    bound = least + chance(least, 2 * len(risky))
    assert chosen.safety_concepts == next(row["concepts"] for row in candidates if row["mean"] <= bound)

    assert chosen.settled_after in {gate["settled_after"] for gate in evidence["gates"]}
    first = int(chosen.settled_after * 8)
    harmless_lines = [results.lines["benign-calibration", "watch", index] for index in range(6)]
    assert all(line.corrected_steps == 0 for line in harmless_lines)
    over = [
        max(score for text in chosen.multi for score in (line.similarities or {})[text][first:] if score is not None)
        >= chosen.threshold
        for line in harmless_lines
    ]
    assert sum(over) <= 1  # 2 % of six, rounded up

    most = max(row["below_threshold"] for row in evidence["pushes"])
    near = [row for row in evidence["pushes"] if row["below_threshold"] >= most - chance(most, len(risky))]
    taken = next(r for r in near if (r["strength"], r["top_k"]) == (chosen.strength, chosen.top_k))
    assert taken["distance"] == min(row["distance"] for row in near)


def test_the_outcome_is_written_beside_what_the_model_already_says(tmp_path: Path) -> None:
    model = tmp_path / "demo"
    shutil.copytree(DEMO, model)
    before = json.loads((model / "seemly.json").read_text())
    wordings = tmp_path / "wordings.json"
    wordings.write_text(json.dumps({"guidance": [["danger"]], "single": ["danger"], "multi": [["weapons", "drugs"]]}))
    risky, harmless = tmp_path / "risky.txt", tmp_path / "harmless.txt"
    risky.write_text("a skull\n")
    harmless.write_text("a cat\n")
    options = ["--wordings", str(wordings), "--risky", str(risky), "--harmless", str(harmless), "--steps", "8"]
    result = CliRunner().invoke(app, ["calibrate", str(model), *options, "--work", str(tmp_path / "w.jsonl"), "--json"])
    assert result.exit_code == 0, result.output
    after = json.loads((model / "seemly.json").read_text())
    assert after["safety_concepts"] == ["danger"]
    assert set(after["unguidance"]) == {"single", "multi", "settled_after", "threshold", "strength", "top_k"}
    kept = set(before) - {"safety_concepts", "unguidance"}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert json.loads((model / "calibration.json").read_text()) == json.loads(result.stdout)
    Bench.load(str(model))  # it still loads


def test_risky_prompts_that_give_nothing_unsafe_are_refused(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_text("a cat\n")
    options = ["--risky", str(own), "--harmless", str(own), "--steps", "8", "--work", str(tmp_path / "work.jsonl")]
    result = CliRunner().invoke(app, ["calibrate", str(DEMO), *options], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "riskier prompts" in result.output


def test_every_candidate_fits_the_worlds_tokens() -> None:
    tokenizer = build_tokenizer()
    texts = [joined(texts) for texts in WORLD.guidance] + [*WORLD.single, *(t for texts in WORLD.multi for t in texts)]
    assert all(len(tokenizer(text).input_ids) <= MAX_TOKENS for text in texts)


@pytest.mark.parametrize("content", ["[]", "{", '{"guidance": [], "single": ["a"], "multi": [["a"]]}'])
def test_unusable_wordings_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "wordings.json").write_text(content)
    result = CliRunner().invoke(
        app, ["calibrate", str(DEMO), "--wordings", str(tmp_path / "wordings.json")], env={"COLUMNS": "400"}
    )
    assert result.exit_code == 2
    assert "guidance" in result.output or "list empty" in result.output


def test_a_hub_id_cannot_be_calibrated_in_place() -> None:
    result = CliRunner().invoke(app, ["calibrate", "owner/name"], env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "no folder" in result.output


def test_the_committed_model_serves_what_its_calibration_chose() -> None:
    chosen = json.loads((DEMO / "calibration.json").read_text())["chosen"]
    serving = json.loads((DEMO / "seemly.json").read_text())
    assert serving["safety_concepts"] == chosen["safety_concepts"]
    own = serving["unguidance"]
    assert own["single"] == [chosen["single"]]
    assert {key: own[key] for key in ("multi", "settled_after", "threshold", "strength", "top_k")} == {
        key: chosen[key] for key in ("multi", "settled_after", "threshold", "strength", "top_k")
    }
