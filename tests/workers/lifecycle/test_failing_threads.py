"""No thread of a worker may die or hang unnoticed: the worker ends, and its jobs go back to the queue."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
import torch
from pydantic import ValidationError

from contract import keys
from contract.prompt_concepts import TextScore
from contract.result import Status
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import PacedEngine
from tests.workers.lifecycle.test_readings import reading
from workers.progress import ProgressBoard
from workers.reaper import Reaper
from workers.safety.protocol import ReadText
from workers.settings import Settings
from workers.worker import EXIT_THREAD_FAILED


def test_a_step_that_never_ends_ends_the_worker_and_frees_its_jobs(
    server: RedisServer, client: Client, tmp_path: Path, engine: PacedEngine
) -> None:
    wanted = job("hangs")
    with working(server, tmp_path, engine, step_limit_s=0.5, lease_s=60) as worker:
        client.accept(wanted)
        assert worker.exit_code.result(timeout=60) == EXIT_THREAD_FAILED
        engine.release.set()
    assert client.redis.zcard(keys.READY_WORKERS) == 0
    assert client.redis.lrange("rq:queue:seemly-paced", 0, -1) == [wanted.id.encode()]
    assert client.redis.zcard("rq:wip:seemly-paced") == 0


def test_steps_within_the_limit_are_no_hang(server: RedisServer, client: Client, tmp_path: Path) -> None:
    with working(server, tmp_path, PacedEngine(step_s=0.2), step_limit_s=0.6):
        wanted = client.accept(job(steps=8))
        assert client.wait_for([wanted]) == {wanted: Status.SUCCEEDED}


@pytest.mark.parametrize(("of", "method"), [(ProgressBoard, "flush"), (ProgressBoard, "close"), (Reaper, "run")])
def test_a_thread_that_fails_ends_the_worker_and_says_no_more_than_where(
    server: RedisServer,
    client: Client,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    of: type,
    method: str,
) -> None:
    message = "a secret prompt"

    def fail(*_: object) -> None:
        raise SystemError(message) if of is ProgressBoard else KeyboardInterrupt(message)

    monkeypatch.setattr(of, method, fail)
    wanted = job(steps=20)
    client.accept(wanted)
    with working(server, tmp_path, PacedEngine(), lease_s=60) as worker:
        assert worker.exit_code.result(timeout=60) == EXIT_THREAD_FAILED
    assert "failed; the worker ends" in caplog.text
    assert "secret" not in caplog.text
    if method == "close":
        assert client.redis.lrange("rq:queue:seemly-paced", 0, -1) == [wanted.id.encode()]


class LostDevice:
    """A panel whose device is gone; it notices when it is asked."""

    troubles: Mapping[str, str] = MappingProxyType({})

    def mend(self) -> None:
        """Nothing to prove."""

    def read(self, texts: Sequence[ReadText], concepts: Sequence[str]) -> tuple[TextScore, ...]:
        raise torch.AcceleratorError


def test_a_device_that_is_lost_while_a_job_is_taken_ends_the_worker(
    server: RedisServer, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = reading(texts=())
    client.accept_any(wanted)
    with working(server, tmp_path, PacedEngine(), detectors=LostDevice()) as worker:
        assert worker.exit_code.result(timeout=60) == EXIT_THREAD_FAILED
    assert "the device is lost; the worker ends" in caplog.text
    assert client.redis.zscore(keys.ACCEPTED, wanted.id) is not None


def test_a_step_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="step_limit_s"):
        Settings(step_limit_s=0)
