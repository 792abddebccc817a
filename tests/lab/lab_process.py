"""A lab's worker on a tiny checkpoint, in a process of its own that can be killed or in a thread of the test.

python -m tests.lab.lab_process URL FOLDER MODEL
"""

import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from contract.erasure import Lab
from lab.erasure.job import Workshop
from lab.worker import LabWorker
from workers.checkpoint import hash_weights
from workers.metrics import WorkerMetrics
from workers.records import connect
from workers.rq_disarmed import disarm_rq
from workers.settings import Settings

CHECKPOINT_EVERY = 4  # iterations


def lab_worker(url: str, folder: Path, model: Path) -> LabWorker:
    """A worker with short leases; it works below `folder`, whose `variants` are the shelf."""
    disarm_rq()
    fast = {"heartbeat_s": 0.5, "lease_s": 2, "maintenance_s": 0.5, "watch_s": 0.05, "progress_s": 0.001}
    settings = Settings(redis_url=url, model_name="tiny", model=str(model), data=folder, **fast)
    workshop = Workshop(str(model), folder / "variants", folder / "work", torch.device("cpu"), CHECKPOINT_EVERY)
    lab = Lab(model="tiny", weights_sha256=hash_weights(model))
    return LabWorker(settings, connect(url), workshop, lab, WorkerMetrics())


@contextmanager
def lab_at_work(url: str, folder: Path, model: Path) -> Iterator[LabWorker]:
    """One in a thread; at the end it is told to stop."""
    worker = lab_worker(url, folder, model)
    with ThreadPoolExecutor(1) as pool:
        exit_code = pool.submit(worker.run)
        try:
            yield worker
        finally:
            worker.stop()
            assert exit_code.result(60) == 0


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    torch.set_num_threads(1)
    sys.exit(lab_worker(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])).run())
