"""A worker in a process of its own, with the paced engine, that can be told to stand still at a named point.

    python -m tests.faults.worker_process URL FOLDER MODEL [--stand-at POINT] [--slots N] …

Standing, it prints `at POINT` and goes on when its standard input says so.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import obstore

import workers.delivery
import workers.marking
from contract.store import open_store
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine
from workers.delivery import Stores
from workers.lifecycle import RqWorker
from workers.metrics import WorkerMetrics
from workers.records import JobRecords, connect
from workers.rq_disarmed import disarm_rq
from workers.settings import Settings
from workers.worker import Worker

POINTS = (
    "popped",
    "leased",
    "begun",
    "submitting",
    "running",
    "encoding",
    "storing",
    "committing",
    "committed",
)


def stand(point: str) -> None:
    """Stand still until a line comes in."""
    print(f"at {point}", flush=True)  # noqa: T201 - how the test learns of it
    sys.stdin.readline()


def standing_before(point: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """The same call, after a stand."""

    def stand_first(*arguments: Any, **named: Any) -> Any:
        stand(point)
        return call(*arguments, **named)

    return stand_first


class StandingEngine(PacedEngine):
    """Stands still when a picture has done its second step."""

    def step(self) -> list[Any]:
        """As the paced engine does."""
        if any(row.step == 2 for row in self._rows):
            stand("running")
        return super().step()


def put_then_stand(*arguments: Any) -> None:
    """Stands still with the first file in the store."""
    obstore.put(*arguments)
    stand("storing")


def arrange_to_stand_at(point: str | None) -> None:
    """Put the stand in the one place that the name means."""
    if point == "popped":
        RqWorker.prepare_execution = standing_before(point, RqWorker.prepare_execution)
    elif point == "leased":
        RqWorker.begin = standing_before(point, RqWorker.begin)
    elif point == "begun":
        JobRecords.start = standing_before(point, JobRecords.start)
    elif point == "submitting":
        PacedEngine.submit = standing_before(point, PacedEngine.submit)
    elif point == "encoding":
        workers.marking.encode = standing_before(point, workers.marking.encode)
    elif point == "storing":
        workers.delivery.obstore = SimpleNamespace(put=put_then_stand, delete=obstore.delete)
    elif point == "committing":
        JobRecords.commit = standing_before(point, JobRecords.commit)
    elif point == "committed":
        RqWorker.finish = standing_before(point, RqWorker.finish)


def main() -> None:
    """Run a worker with short leases."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--stand-at", choices=POINTS)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--step-s", type=float, default=0.005)
    parser.add_argument("--lease-s", type=int, default=1)
    parser.add_argument("--drain-limit-s", type=float)
    chosen = parser.parse_args()

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    disarm_rq()
    arrange_to_stand_at(chosen.stand_at)
    settings = Settings(
        redis_url=chosen.url,
        data=chosen.folder,
        model_name=chosen.model,
        slots=chosen.slots,
        heartbeat_s=0.25,
        lease_s=chosen.lease_s,
        maintenance_s=0.25,
        watch_s=0.05,
        progress_s=0.05,
        drain_limit_s=chosen.drain_limit_s,
    )
    engine = (StandingEngine if chosen.stand_at == "running" else PacedEngine)(chosen.step_s)
    info = INFO.model_copy(update={"name": settings.model_name})
    stores = Stores(open_store(settings.picture_store_url), open_store(settings.withheld_store_url))
    worker = Worker(settings, connect(settings.redis_url), engine, info, b"{}", stores, WorkerMetrics())
    sys.exit(worker.run())


if __name__ == "__main__":
    main()
