"""The worker around the real engine, over a tiny checkpoint of random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from contract.filter import Action, Filter, FilterConcept
from contract.plan import SafetyPlan
from contract.request import OutputFormat
from contract.result import Status
from contract.verdict import Verdict
from tests import engines
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from workers.engine.engine import Engine
from workers.engine.picture import PictureSpec
from workers.metrics import WorkerMetrics
from workers.models import LoadedModel

SIZE = {"model": "tiny", "width": 32, "height": 32}


def test_what_is_stored_is_what_the_engine_makes(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    jobs = [job(f"a cat {number}", pictures=2, plan=SafetyPlan(), **SIZE) for number in range(3)]
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        for wanted in jobs:
            client.accept(wanted)
        assert set(client.wait_for([wanted.id for wanted in jobs]).values()) == {Status.SUCCEEDED}
        client.assert_ended_once([wanted.id for wanted in jobs])
    for wanted in jobs:
        alone = engines.run(engines.engine(tiny_model), PictureSpec.all_of(wanted))
        for outcome, picture in zip(alone, client.result(wanted.id).images, strict=True):
            file = worker.pictures / wanted.tenant / wanted.id / f"1-{picture.index}.{OutputFormat.PNG.value}"
            with Image.open(file) as stored:
                difference = np.abs(np.asarray(stored).astype(int) - outcome.pixels)
            assert difference.max() <= 1  # of 255: other neighbours in the batch may round differently
            assert {score.name for score in picture.concepts} >= {*tiny_model.info.concepts}


def test_a_result_tells_what_ran(server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel) -> None:
    wanted = job(plan=SafetyPlan(output=Filter()), **SIZE)
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        client.accept(wanted)
        client.wait_for([wanted.id])
        result = client.result(wanted.id)
    [picture] = result.images
    assert picture.verdict in (Verdict.PASSED, Verdict.BLOCKED)
    assert (len(worker.files()) == 1) is (picture.verdict is Verdict.PASSED)
    assert result.safety is not None
    assert result.safety.weights_sha256 == tiny_model.info.weights_sha256
    assert "output" in result.safety.applied
    assert result.metrics is not None
    assert result.metrics.unet_rows >= wanted.steps
    assert result.metrics.images_per_batch_mean == 1


def test_a_canceled_job_leaves_the_engine(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    wanted = job(steps=150, pictures=4, **SIZE)
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        client.accept(wanted)
        client.wait_until_started(wanted.id)
        assert client.cancel(wanted.id) == "running"
        assert client.wait_for([wanted.id]) == {wanted.id: Status.CANCELED}
        assert worker.files() == []


def test_a_flagged_picture_is_made_again_as_an_ordinary_one(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    """Alone and beside others: the same seeds, scores and bytes as a plain request for the seed that was used."""
    first = engines.spec(seed=0, prompt="a harbour")
    while (scores := [_resemblance(tiny_model, one) for one in (first, first.again)])[0] < scores[1] + 0.004:
        first = engines.spec(seed=first.seed + 1, prompt="a harbour")
    between = FilterConcept(name="hat", text="a red hat", threshold=sum(scores) / 2, action=Action.REGENERATE)
    plan = SafetyPlan(output=Filter(concepts=(between,)))
    jobs = [job(plan=plan, seeds=seeds, **SIZE) for seeds in ((first.seed,), (first.seed, 900, 901))]
    jobs.append(job(plan=SafetyPlan(), seeds=(first.again.seed,), **SIZE))
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        client.accept(jobs[0])
        client.wait_for([jobs[0].id])
        for wanted in jobs[1:]:
            client.accept(wanted)
        client.wait_for([wanted.id for wanted in jobs])
        pictures = [client.result(wanted.id).images[0] for wanted in jobs]
        files = [worker.pictures / wanted.tenant / wanted.id / "1-0.png" for wanted in jobs]
        pixels = [np.asarray(Image.open(file)).astype(int) for file in files]
    assert [picture.seed for picture in pictures] == [first.again.seed] * 3
    assert [[one.seed for one in picture.discarded] for picture in pictures] == [[first.seed], [first.seed], []]
    assert pictures[0].discarded == pictures[1].discarded
    assert all(np.abs(each - pixels[2]).max() <= 1 for each in pixels)


def _resemblance(model: LoadedModel, wanted: PictureSpec) -> float:
    concept = FilterConcept(name="hat", text="a red hat", threshold=1)
    [outcome] = engines.run(
        engines.engine(model), [replace(wanted, plan=SafetyPlan(output=Filter(concepts=(concept,))))]
    )
    return next(score.score for score in outcome.scores if score.name == "hat")


def test_metrics_tell_of_ticks_stages_and_scores(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    named = FilterConcept(name="hat", text="a red hat", threshold=0.9)
    wanted = job(pictures=3, steps=4, plan=SafetyPlan(output=Filter(concepts=(named,))), **SIZE)
    metrics = WorkerMetrics()
    watched = Engine(tiny_model.parts, tiny_model.methods, watch=metrics.note_tick)
    with working(server, tmp_path, watched, tiny_model, metrics=metrics):
        client.accept(wanted)
        client.wait_for([wanted.id])
        outcome = client.result(wanted.id).status

    def told(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(f"seemly_worker_{name}", labels)

    assert told("jobs_total", mode="filter", outcome=outcome.value) == 1
    assert told("queue_wait_seconds_count", queue="seemly-tiny") == 1
    in_order = [told("stage_seconds_sum", stage=stage) or 0 for stage in ("room", "text")]
    assert told("queue_wait_seconds_sum", queue="seemly-tiny") >= sum(in_order) / 3  # it lasts until the first step
    assert (told("tick_rows_count"), told("tick_rows_sum")) == (4, 3 * 4)
    assert (told("unet_calls_total"), told("unet_rows_total")) == (4, 3 * 2 * 4)
    assert told("unet_padding_rows_total") == 0  # six rows have a size of their own
    for stage in ("room", "text", "denoise", "turn", "decode", "judge"):
        assert told("stage_seconds_count", stage=stage) == 3, stage
    for stage in ("store", "commit"):
        assert told("stage_seconds_count", stage=stage) == 1, stage
    assert told("safety_score_margin_count", concept="requested") == 3
    assert told("safety_score_margin_bucket", concept="requested", le="0.0") == 3  # none found: under its threshold
    assert all(told("safety_score_margin_count", concept=concept) == 3 for concept in tiny_model.info.concepts)
    assert told("picture_errors_total", code="detector_error") == 0
