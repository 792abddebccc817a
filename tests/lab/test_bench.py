"""The benchmarks compare what is equal."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from contract.plan import SafetyPlan
from contract.steering import Unguidance
from lab.bench.commands import app
from lab.bench.engine import specs_for
from lab.bench.gateway import compare_gateway
from lab.bench.unguidance import UngatedCorrector
from tests import engines
from workers import models
from workers.engine.engine import Engine
from workers.safety.unguidance import TrajectoryCorrector

DEMO = str(Path(__file__).parents[2] / "models" / "demo")


def test_unguidance_without_its_gate_makes_the_same_pictures() -> None:
    model = models.load(DEMO, name="demo", device=torch.device("cpu"))
    gated = model.methods.corrector
    assert isinstance(gated, TrajectoryCorrector)
    specs = [
        replace(spec, plan=SafetyPlan(trajectory=Unguidance(threshold=threshold, schedule="constant")))
        for spec, threshold in zip(specs_for(model.info, range(3), 5), (-1.0, 1.0, 0.2), strict=True)
    ]
    specs = [replace(spec, index=index) for index, spec in enumerate(specs)]
    made = [
        engines.run(Engine(model.parts, replace(model.methods, corrector=corrector)), specs)
        for corrector in (gated, UngatedCorrector(gated))
    ]
    for with_gate, without in zip(*made, strict=True):
        assert with_gate.pixels is not None
        assert without.pixels is not None
        assert np.abs(with_gate.pixels.astype(int) - without.pixels).max() <= 1
    assert [len(outcome.trajectory.corrected_steps) for outcome in made[0][:2] if outcome.trajectory] == [5, 0]


def test_the_gateway_is_measured_against_a_bare_app(tmp_path: Path) -> None:
    row = compare_gateway(DEMO, tmp_path, requests=20, connections=4, repeats=2, streams=20)
    for pair in (row.generate, row.queued, row.finished):
        assert pair.ratio == pair.bare.median / pair.gateway.median > 0
        assert len(pair.gateway.seconds) == len(pair.bare.seconds) == 2
    assert (row.streams.count, row.streams.told) == (20, 20)
    assert 20 < row.streams.before_mb <= row.streams.open_mb < 300


def test_rows_of_several_variants_are_measured_against_those_of_one(tiny_folder: Path) -> None:
    words = ["variants", "--model", str(tiny_folder), "--steps", "1", "--repeats", "4", "--json"]
    done = CliRunner().invoke(app, [*words, "--variants", "2", "--pictures", "3"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["variants"], told["pictures"], len(told["several"]["seconds"])) == (2, 3, 4)
    assert told["ratio"] > 0
    for bad in (["--variants", "1"], ["--variants", "4", "--pictures", "3"]):
        assert CliRunner().invoke(app, [*words, *bad]).exit_code == 2


@pytest.mark.parametrize("options", [["--tripping", "3", "--pictures", "2"], ["--repeats", "1"]])
def test_a_mix_that_cannot_be_is_refused(options: list[str]) -> None:
    assert CliRunner().invoke(app, ["unguidance", *options]).exit_code == 2


def test_a_job_is_profiled_by_stage_and_operator(tmp_path: Path) -> None:
    words = ["profile", "a cat", "--model", DEMO, "--steps", "2", "--pictures", "3", "--safety", "filter"]
    done = CliRunner().invoke(app, [*words, "--trace", str(tmp_path / "trace.json"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert list(told["stages_s"]) == ["text", "denoise", "turn", "decode", "judge"]
    assert (told["ticks"], told["unet_rows"], told["padding_rows"]) == (2, 12, 0)
    assert "aten::mkldnn_convolution" in {each["name"] for each in told["operators"][:10]}
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    refused = CliRunner().invoke(app, [*words[:-1], "sdl:max"])
    assert refused.exit_code == 2
    assert "sdl" in refused.output
