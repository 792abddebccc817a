"""The simulated day: its cost model, its arrivals, KEDA's rules, and what the shipped numbers come to."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lab.bench.autoscale.arrivals import Arrival, day, mean_row_steps, rate
from lab.bench.autoscale.comparison import SHIPPED, SLO_WAIT_S, Scenario, compare
from lab.bench.autoscale.cost import CostModel, Measured, read_measured
from lab.bench.autoscale.keda import HPA_PERIOD_S, Pace, Scaler, ScalingRules
from lab.bench.autoscale.simulation import Pods, simulate
from lab.bench.commands import app
from tests.prometheus import ALERTS

ROOT = Path(__file__).parents[2]
COST = CostModel(overhead_s=0.01, per_row_s=0.012)


def rules(**changes: object) -> ScalingRules:
    plain = {"target": 4, "activation": 0, "least": 1, "most": 10, "polling_s": 15, "cooldown_s": 60}
    return ScalingRules(**{**plain, "up": Pace(0, 4, 15), "down": Pace(60, 1, 30), **changes})


def test_the_cost_model_finds_what_made_the_measurements() -> None:
    rounds = [Measured(n, 20, 20 * COST.tick_s(2 * n)) for n in (1, 3, 4, 16, 40)]  # six and eighty rows are padded
    fitted = CostModel.fit(rounds)
    assert (fitted.overhead_s, fitted.per_row_s) == pytest.approx((0.01, 0.012))
    assert fitted.error(rounds) < 1e-9
    assert COST.tick_s(80) == pytest.approx(3 * 0.01 + 80 * 0.012)
    with pytest.raises(ValueError, match="two numbers of pictures"):
        CostModel.fit(rounds[:1])
    with pytest.raises(ValueError, match="took no longer"):
        CostModel.fit([Measured(1, 20, 1.0), Measured(16, 20, 0.5)])


def test_a_day_is_repeatable_quiet_at_night_and_has_its_bursts() -> None:
    arrivals = day(0.2, 86_400, seed=3)
    assert arrivals == day(0.2, 86_400, seed=3) != day(0.2, 86_400, seed=4)
    counted, _ = np.histogram([arrival.at for arrival in arrivals], bins=96, range=(0, 86_400))
    expected = np.array([np.mean([rate(900 * i + at, 86_400) for at in range(0, 900, 30)]) for i in range(96)]) * 180
    assert np.abs(counted - expected).max() < 5 * np.sqrt(expected.max())
    work = np.mean([one.rows * one.steps * one.pictures for one in arrivals])
    assert work == pytest.approx(mean_row_steps(), rel=0.02)


def test_a_single_job_takes_its_own_ticks_and_waits_for_none() -> None:
    came = simulate([Arrival(5.0, pictures=2, steps=20, rows=2)], Pods(COST, start_s=90), rules())
    assert came.waits_s.tolist() == [0.0]
    assert came.busy_s == pytest.approx(20 * COST.tick_s(4))
    assert came.pod_s == pytest.approx(5 + 20 * COST.tick_s(4))


def test_from_zero_the_first_job_waits_for_a_pod_and_the_last_one_leaves_after_the_cooldown() -> None:
    arrivals = [Arrival(100.0, 1, 20, 2), Arrival(1000.0, 1, 20, 2)]
    came = simulate(arrivals, Pods(COST, start_s=90), rules(least=0))
    assert all(90 <= wait <= 90 + HPA_PERIOD_S for wait in came.waits_s)
    assert came.pods.max() == 1
    assert came.pods[came.times_s.searchsorted(500)] == 0


def test_the_scaler_keeps_to_its_pace_windows_and_bounds() -> None:
    scaler = Scaler(rules())
    assert [scaler.decide(15.0 * i, 1000, pods) for i, pods in enumerate((1, 5, 9))] == [5, 9, 10]
    assert scaler.decide(60, 39, 10) == 10  # within a tenth
    falling, pods = [], 10
    for i in range(12):
        pods = scaler.decide(75 + 15.0 * i, 4, pods)
        falling.append(pods)
    assert falling == [10, 10, 10, 10, 9, 9, 8, 8, 7, 7, 6, 6]  # a minute's window, then one every 30 s


def test_work_is_conserved_and_pods_are_paid_until_they_are_empty() -> None:
    scenario = Scenario(COST, mean_pods=2, hours=1)
    arrivals = scenario.arrivals
    came = simulate(arrivals, Pods(COST, start_s=30), rules(most=4))
    assert len(came.waits_s) == len(arrivals)
    assert came.waits_s.min() >= 0
    assert came.busy_s < came.pod_s
    alone = sum(one.steps * one.rows * one.pictures for one in arrivals) * COST.per_row_s
    assert came.busy_s > alone * 0.99  # no row is cheaper than a row


def test_the_shipped_settings_keep_the_slo_and_the_backlog_alone_does_not() -> None:
    shipped, *others = compare(Scenario(COST, mean_pods=1))
    assert shipped.keeps_slo, shipped.came.wait_s(0.95)
    assert len(others) == 3
    for other in others:
        assert not other.keeps_slo or other.came.pod_hours > shipped.came.pod_hours, other.name


def test_the_alert_is_of_the_same_slo() -> None:
    [rule] = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]
              if rule["alert"] == "SeemlyWaitingTooLong"]  # fmt: skip
    assert rule["expr"].endswith(f"> {SLO_WAIT_S:g}")


def test_kubernetes_gets_the_numbers_that_were_simulated() -> None:
    objects = [one for file in (ROOT / "k8s").rglob("*.yaml") for one in yaml.safe_load_all(file.read_text()) if one]
    scaled = [one for one in objects if one.get("kind") == "ScaledObject"]
    assert scaled
    for one in scaled:
        assert ScalingRules.of(one) == SHIPPED, one["metadata"]["name"]


def test_the_command_reads_what_the_engines_benchmark_prints(tmp_path: Path) -> None:
    lines = [
        {"pictures": n, "steps": 20, "engine": {"seconds": [20 * COST.tick_s(2 * n)] * 4}, "pipeline": {}, "ratio": 1}
        for n in (1, 4, 16)
    ]
    (tmp_path / "engine.json").write_text(json.dumps(lines))
    assert [one.pictures for one in read_measured(tmp_path / "engine.json")] == [1, 4, 16]
    words = ["autoscale", "--measured", str(tmp_path / "engine.json"), "--hours", "0.5", "--price", "2"]
    done = CliRunner().invoke(app, [*words, "--plot", str(tmp_path / "day.png"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["error"] < 0.001
    assert told["rows"][0]["cost"] == pytest.approx(2 * told["rows"][0]["pod_hours"], abs=0.02)
    assert (tmp_path / "day.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "engine.json").write_text('[{"pictures": 1}]')
    refused = CliRunner().invoke(app, words)
    assert refused.exit_code == 2
    assert "is not what" in " ".join(refused.output.replace("│", " ").split())
