"""A real Redis and a worker in a thread of the test."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.store import open_store
from tests.redis_server import RedisServer, running_redis
from tests.workers.lifecycle.client import Client
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine
from workers.delivery import PictureEngine, Stores
from workers.metrics import WorkerMetrics
from workers.models import LoadedModel
from workers.readiness import Detectors
from workers.records import connect
from workers.rq_disarmed import disarm_rq
from workers.settings import Settings
from workers.variants.shelf import VariantShelf
from workers.worker import Worker

RunWorker = Callable[..., "RunningWorker"]


class RunningWorker:
    """A worker with what a test looks at."""

    def __init__(self, worker: Worker, metrics: WorkerMetrics, pictures: Path, exit_code: "Future[int]") -> None:
        self.worker = worker
        self.metrics = metrics
        self.pictures = pictures
        self.exit_code = exit_code

    def stop(self) -> int:
        """Drain; the exit code."""
        self.worker.stop()
        return self.exit_code.result(timeout=60)

    def files(self) -> list[Path]:
        """What lies in the store, but for what awaits a person."""
        return [path for path in self.pictures.rglob("*") if path.is_file() and ".withheld" not in path.parts]


@contextmanager
def working(
    server: RedisServer,
    folder: Path,
    engine: PictureEngine,
    model: LoadedModel | None = None,
    variants: VariantShelf | None = None,
    detectors: Detectors | None = None,
    metrics: WorkerMetrics | None = None,
    **changes: object,
) -> Iterator[RunningWorker]:
    """A worker in a thread, drained at the end."""
    disarm_rq()
    fast = {"heartbeat_s": 0.5, "lease_s": 2, "maintenance_s": 0.5, "watch_s": 0.05, "progress_s": 0.02}
    settings = Settings(redis_url=server.url, data=folder, **(fast | changes))
    metrics = metrics or WorkerMetrics()
    connection = connect(settings.redis_url)
    stores = Stores(open_store(settings.picture_store_url), open_store(settings.withheld_store_url))
    info, tokenizer_json = (model.info, model.tokenizer_json) if model else (INFO, b"{}")
    worker = Worker(settings, connection, engine, info, tokenizer_json, stores, metrics, variants, detectors)
    with ThreadPoolExecutor(1) as pool:
        running = RunningWorker(worker, metrics, folder / "pictures", pool.submit(worker.run))
        try:
            yield running
        finally:
            running.stop()
            connection.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis of this test's own."""
    with running_redis(tmp_path) as running:
        yield running


@pytest.fixture
def client(server: RedisServer) -> Iterator[Client]:
    """Accepts and follows jobs."""
    disarm_rq()
    redis = connect(server.url)
    yield Client(redis)
    redis.close()


@pytest.fixture
def engine() -> PacedEngine:
    """An engine of this test's own."""
    return PacedEngine()


@pytest.fixture
def worker(server: RedisServer, tmp_path: Path, engine: PacedEngine, client: Client) -> Iterator[RunningWorker]:
    """A worker that runs."""
    with working(server, tmp_path, engine) as running:
        yield running
