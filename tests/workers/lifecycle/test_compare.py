"""A compare through the worker and the real engine, over a tiny checkpoint."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from contract import keys
from contract.job import ComparedPlan, Job
from contract.plan import SafetyPlan
from contract.result import Result, Status
from contract.verdict import Verdict
from tests import engines
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from workers.blur import blurred
from workers.comparison import distance
from workers.models import LoadedModel

WITHHELD: dict[str, Any] = {"output": {"concepts": [{"name": "anything", "text": "anything", "threshold": -1}]}}
BLURRED: dict[str, Any] = {"output": {"action": "blur", **WITHHELD["output"]}}
SLD: dict[str, Any] = {"guidance": {"method": "sld", "preset": "weak", "concepts": ["harm"], "warmup_steps": 2}}


def pixels(file: Path) -> Any:
    with Image.open(file) as stored:
        return np.asarray(stored)


def compare(*plans: dict[str, Any], **changes: Any) -> Job:
    compared = tuple(
        ComparedPlan(label=str(index), requested=written, plan=written)
        for index, written in enumerate(map(SafetyPlan.model_validate, plans))
    )
    size = {"model": "tiny", "width": 32, "height": 32}
    own = {"seeds": (9,) * len(plans), "plan": compared[0].plan, "requested": compared[0].requested}
    return job("a cat", **(size | own | changes), compared=compared)


def test_each_plan_has_its_picture_its_verdict_and_its_share_of_the_rows(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    wanted = compare({}, WITHHELD, SLD, {"guidance": SLD["guidance"], **WITHHELD}, BLURRED)
    result = finished(server, client, tmp_path, tiny_model, wanted)
    assert result.status is Status.PARTIAL
    assert [picture.verdict for picture in result.images] == [Verdict.PASSED, Verdict.BLOCKED] * 2 + [Verdict.PASSED]
    # SLD's own text is needed from the third of four steps on, and only the fourth starts from other latents.
    assert [entry.unet_rows for entry in result.comparison] == [8, 0, 1 + 3, 0, 0]
    assert result.metrics is not None
    assert result.metrics.unet_rows == 12
    plain, withheld, sld, both, smeared = result.comparison
    assert (plain.distance, withheld.distance, both.distance) == (0.0, None, None)
    assert sld.distance != 0
    assert [picture.blurred for picture in result.images] == [False] * 4 + [True]
    assert plain.safety.applied["guidance"]["method"] == "classifier-free"
    assert sld.safety.applied["guidance"]["method"] == "sld"
    assert {each.difference for each in withheld.differences} == {0.0}
    assert any(each.difference for each in sld.differences)
    files = sorted((tmp_path / "pictures" / wanted.tenant / wanted.id).iterdir())
    assert [file.name for file in files] == ["1-0.png", "1-2.png", "1-4.png"]
    first, hidden = pixels(files[0]), pixels(files[2])
    assert (hidden == blurred(first)).all()
    assert smeared.distance == distance(first, hidden) != 0
    for file, plan in zip(files, ({}, SLD), strict=False):
        alone = engines.spec(0, seed=9, plan=SafetyPlan.model_validate(plan))
        [outcome] = engines.run(engines.engine(tiny_model), [alone])
        assert np.abs(pixels(file).astype(int) - outcome.pixels).max() <= 1


def test_a_plan_that_the_worker_does_not_serve_ends_the_compare_with_its_reason(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    result = finished(server, client, tmp_path, tiny_model, compare({}, {"weights": {"variant": "esd"}}))
    assert result.status is Status.FAILED
    assert result.error is not None
    assert "erased" in result.error.message


def test_a_canceled_compare_leaves_nothing(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    wanted = compare({}, WITHHELD, SLD, steps=150)
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        client.accept(wanted, keys.COMPARE)
        client.wait_until_started(wanted.id)
        assert client.cancel(wanted.id) == "running"
        assert client.wait_for([wanted.id]) == {wanted.id: Status.CANCELED}
        assert client.result(wanted.id).comparison == ()
        assert worker.files() == []


def finished(server: RedisServer, client: Client, folder: Path, model: LoadedModel, wanted: Job) -> Result:
    with working(server, folder, engines.engine(model), model):
        client.accept(wanted, keys.COMPARE)
        client.wait_for([wanted.id])
        client.assert_ended_once([wanted.id])
    return client.result(wanted.id)
