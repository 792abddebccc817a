"""A worker and uploads: judged as what was sent, never stored, failed where they are gone."""

import hashlib
from pathlib import Path

from contract import keys
from contract.result import Status
from contract.upload import look_at
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
