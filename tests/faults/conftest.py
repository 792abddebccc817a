"""A real Redis, and workers in processes that can be killed, frozen and told to drain."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.job import Job, picture_key
from tests.redis_server import RedisServer, running_redis
from tests.workers.lifecycle.client import Client
from workers.records import connect
from workers.rq_disarmed import disarm_rq

REPOSITORY = Path(__file__).resolve().parents[2]


class WorkerProcess:
    """One worker; its output goes to the test's own, its standing still is heard."""

    def __init__(self, url: str, folder: Path, model: str, *options: str) -> None:
        self._said = threading.Event()
        command = [sys.executable, "-m", "tests.faults.worker_process", url, str(folder), model, *options]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("at "):
                self._said.set()

    def wait_until_standing(self, within_s: float = 90) -> None:
        """Wait until it stands where it was told to."""
        assert self._said.wait(within_s), "the worker never came to the point"

    def go_on(self) -> None:
        """End its standing still."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def send(self, signal_number: signal.Signals) -> None:
        """Signal it."""
        os.kill(self.process.pid, signal_number)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.wait()

    def wait(self, within_s: float = 60) -> int:
        """Wait for its end. Its exit code; negative for a signal."""
        return self.process.wait(within_s)

    def close(self) -> None:
        """Leave nothing of it behind."""
        self.kill()
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def worker_process(
    server: RedisServer, folder: Path, model: str = "paced", options: tuple[str, ...] = ()
) -> Iterator[WorkerProcess]:
    """A worker that is gone afterwards."""
    running = WorkerProcess(server.url, folder, model, *options)
    try:
        yield running
    finally:
        running.close()


def stored_files(folder: Path) -> set[str]:
    """Keys of what lies in the store."""
    pictures = folder / "pictures"
    return {str(path.relative_to(pictures)) for path in pictures.rglob("*") if path.is_file()}


def files_of(client: Client, wanted: Job) -> set[str]:
    """Keys of what a job's result promises."""
    attempt = client.attempt(wanted.id)
    passed = [picture.index for picture in client.result(wanted.id).images if picture.url is not None]
    return {picture_key(wanted.id, wanted.tenant, attempt, index, wanted.output_format) for index in passed}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    with running_redis(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[Client]:
    """Accepts and follows jobs, through outages."""
    disarm_rq()
    redis = connect(server.url)
    yield Client(redis)
    redis.close()
