"""A worker whose detector fails: nothing leaves it unjudged, it is ready no longer, and its queue waits."""

import time
from pathlib import Path

from contract import keys
from contract.result import Status
from contract.verdict import Verdict
from tests import engines
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from tests.workers.safety.faulty import FAULTS, Colours
from workers.models import LoadedModel
from workers.safety.detectors.panel import Panel


def test_a_worker_with_a_fallen_detector_withholds_turns_not_ready_and_comes_back(
    server: RedisServer, client: Client, tmp_path: Path, tiny_model: LoadedModel
) -> None:
    detector = Colours()
    panel = Panel(tiny_model.detector, [detector], limit_s=5)
    model = tiny_model.judged_by(panel)
    size = {"model": model.info.name, "width": 32, "height": 32, "steps": 1}

    def ready() -> int:
        return int(client.redis.zcount(keys.READY_WORKERS, time.time(), "+inf"))

    def wait_for_ready(count: int) -> None:
        ends = time.monotonic() + 30
        while ready() != count:
            assert time.monotonic() < ends
            time.sleep(0.01)

    with working(server, tmp_path, engines.engine(model), model, detectors=panel) as worker:
        wait_for_ready(1)
        detector.fault = FAULTS["its file is gone"]
        withheld, waiting = job(pictures=2, **size), job(**size)
        client.accept(withheld)
        assert client.wait_for([withheld.id]) == {withheld.id: Status.FAILED}
        for picture in client.result(withheld.id).images:
            assert picture.verdict is Verdict.ERROR
            assert picture.error is not None
            assert picture.error.code == "detector_error"
        assert worker.files() == []
        wait_for_ready(0)
        assert worker.metrics.detectors_in_trouble._value.get() == 1
        client.accept(waiting)
        time.sleep(1.2)  # longer than a worker asks the queue for a job
        assert client.status(waiting.id) is Status.QUEUED
        detector.fault = None
        assert client.wait_for([waiting.id])[waiting.id] in (Status.SUCCEEDED, Status.BLOCKED)
        assert len(client.result(waiting.id).images[0].concepts) == len(tiny_model.detector.names(None)) + 2
        wait_for_ready(1)
