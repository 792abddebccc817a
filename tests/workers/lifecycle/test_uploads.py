"""A worker and uploads: judged as what was sent, never stored, failed where they are gone."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from contract import keys
from contract.filter import Action, ConceptRule, Filter
from contract.plan import SafetyPlan
from contract.provenance import Origin
from contract.result import Status
from contract.review import review_id
from contract.upload import decoded, look_at
from contract.verdict import Verdict
from tests import engines
from tests.contract.test_upload import COLOURS, file_of
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from workers.models import LoadedModel


def test_uploads_are_judged_once_and_their_bytes_go_nowhere(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    content = file_of(COLOURS)
    size = {"model": tiny_model.info.name, "width": 40, "height": 40, "steps": 1, "guidance_scale": 1.0, "prompt": ""}
    there, gone, other = (job(uploads=(look_at(content),), **size) for _ in range(3))
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        client.redis.set(keys.upload_key(there.id, 0), content)
        client.redis.set(keys.upload_key(other.id, 0), file_of(COLOURS.rotate(90)))
        for wanted in (there, gone, other):
            client.accept(wanted, keys.MODERATE)
        client.wait_for([there.id, gone.id, other.id])
        assert worker.files() == []
    [picture] = client.result(there.id).images
    assert picture.sha256 == hashlib.sha256(content).hexdigest()
    assert picture.url is None
    assert {score.name for score in picture.concepts} >= {*tiny_model.info.concepts}
    for wanted in (gone, other):
        assert client.status(wanted.id) is Status.FAILED
        error = client.result(wanted.id).error
        assert error is not None
        assert error.code == "upload_gone"
    client.assert_ended_once([there.id, gone.id, other.id])


def test_an_upload_for_a_person_is_kept_as_it_was_judged_and_marked_by_nobody(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    see_through = COLOURS.copy()
    see_through.putalpha(100)
    content = file_of(see_through)
    rules = (ConceptRule(name=tiny_model.info.concepts[0], threshold=-1),)  # found in everything
    plan = SafetyPlan(output=Filter(action=Action.REVIEW, rules=rules))
    size = {"width": 40, "height": 40, "steps": 1, "guidance_scale": 1.0, "prompt": ""}
    wanted = job(uploads=(look_at(content),), model=tiny_model.info.name, plan=plan, requested=plan, **size)
    with working(server, tmp_path, engines.engine(tiny_model), tiny_model) as worker:
        client.redis.set(keys.upload_key(wanted.id, 0), content)
        client.accept(wanted, keys.MODERATE)
        client.wait_for([wanted.id])
        assert worker.files() == []
    [picture] = client.result(wanted.id).images
    assert (picture.verdict, picture.kept, picture.url) == (Verdict.REVIEW, True, None)
    kept = tmp_path / "pictures" / ".withheld" / wanted.tenant / wanted.id / "1-0.png"
    assert picture.sha256 == hashlib.sha256(kept.read_bytes()).hexdigest()
    with Image.open(kept) as shown:
        np.testing.assert_array_equal(np.asarray(shown), np.hstack(decoded(content).flats))  # on white and on black
    assert Origin.found_in(kept.read_bytes()) is None  # it was not made here
    assert kept.with_name("1-0.thumbnail.png").exists()
    assert client.redis.hget(keys.review_key(review_id(wanted.id, 0)), "state") == b"waiting"
    [[entry]] = client.on_record().values()
    assert entry.images[0].sha256 == hashlib.sha256(content).hexdigest()
