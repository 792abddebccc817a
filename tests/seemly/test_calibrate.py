"""`seemly audit labels` and `seemly calibrate`: from what people decided to what thresholds would have done."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner

from contract.audit import Decision, words_of
from contract.chain import APPEND
from contract.job import PolicyRef
from contract.verdict import Verdict
from seemly.calibrate import app, curves_of
from seemly.commands.terminal import DONE, FAILED
from service.audit.labels import Label
from tests.redis_server import RedisServer
from tests.seemly import test_audit
from tests.seemly.test_keys import environment, own_redis
from tests.service import parts

__all__ = ["environment", "own_redis"]


def run(*words: str, exit_code: int = DONE) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_code, done.output
    return done.output


def said(redis: "Redis", score: float, is_there: bool | None, verdict: Verdict | None = Verdict.PASSED) -> None:
    decision = Decision(
        tenant="acme",
        at=datetime.now(UTC),
        job="0" * 32,
        index=0,
        by="key 1",
        decision="approve",
        reason="a toy",
        verdict=verdict,
        labels={} if is_there is None else {"weapon": is_there},
        concepts=(parts.score(score), parts.score(0.1, name="kitten")),
        model="demo",
        policy=PolicyRef(id="strict", version=2),
    )
    redis.register_script(APPEND)(args=["acme", *words_of(decision)])


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_decisions_become_labels_and_labels_a_table(own_redis: RedisServer, tmp_path: Path, ending: str) -> None:
    with parts.client(own_redis.url) as redis:
        for score, is_there in ((0.22, False), (0.24, False), (0.26, True), (0.28, False), (0.3, True), (0.32, True)):
            said(redis, score, is_there)
        said(redis, 0.5, None)  # a person who named nothing
        said(redis, 0.5, True, verdict=None)  # the first of two people
        redis.register_script(APPEND)(args=["acme", *words_of(test_audit.some_verdicts())])
    file, plot = tmp_path / f"labels.{ending}", tmp_path / "plot.svg"
    assert "Wrote 6 labels" in test_audit.run("labels", "--tenant", "acme", "--out", str(file))
    [told] = json.loads(run(str(file), "--json", "--plot", str(plot)))
    assert (told["concept"], told["labels"], told["there"]) == ("weapon", 6, 3)
    assert told["current"] == {"threshold": 0.2, "precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert told["best"] == {"threshold": 0.24, "precision": 0.75, "recall": 1.0, "f1": pytest.approx(6 / 7)}
    assert [point["recall"] for point in told["points"]] == [
        1,
        1,
        1,
        pytest.approx(2 / 3),
        pytest.approx(2 / 3),
        pytest.approx(1 / 3),
        0,
    ]
    assert "0.2400" in run(str(file))
    assert "</svg>" in plot.read_text()


def label(score: float, threshold: float, is_there: bool, age_d: int = 0) -> Label:
    return Label(
        job="0" * 32,
        index=0,
        at=datetime.now(UTC) - timedelta(days=age_d),
        model="demo",
        policy="strict@2",
        detector="clip",
        concept="weapon",
        score=score,
        threshold=threshold,
        flagged=score > threshold,
        label=is_there,
    )


def test_no_threshold_is_proposed_under_which_nothing_was_looked_at() -> None:
    [curve] = curves_of([label(0.3, 0.25, True, age_d=2), label(0.4, 0.28, True), label(0.2, 0.25, False, age_d=2)])
    assert curve.current.threshold == 0.28  # the latest
    assert [point.threshold for point in curve.points] == [0.25, 0.3, 0.4]
    assert curve.best is not None
    assert curve.best.threshold == 0.25
    [empty] = curves_of([label(0.3, 0.25, False)])
    assert (empty.points, empty.best) == ([], None)


@pytest.mark.parametrize(
    ("content", "words", "told"),
    [
        ("", (), "holds no labels"),
        ('{"job": 1}\n', (), "label 1 cannot be read"),
        (label(0.3, 0.2, True).model_dump_json(), ("--plot", "x.doc"), "must end in .svg"),
    ],
)
def test_what_is_no_labelled_set_is_told(tmp_path: Path, content: str, words: tuple[str, ...], told: str) -> None:
    (tmp_path / "labels").write_text(content)
    assert told in run(str(tmp_path / "labels"), *words, exit_code=FAILED)
