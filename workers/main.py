"""`python -m workers.main`: loads the model, announces it, works."""

import logging
import os
import sys

import torch

from workers.delivery import open_store
from workers.engine.engine import Engine, EngineLimits
from workers.metrics import MetricsServer, WorkerMetrics
from workers.models import load
from workers.records import connect
from workers.rq_disarmed import disarm_rq
from workers.settings import Settings
from workers.variants.shelf import VariantShelf
from workers.worker import Worker


def choose_device(name: str) -> torch.device:
    """A torch device; `auto` is the GPU when there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """A torch dtype; `auto` is float32 on a CPU, bfloat16 on a GPU."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise SystemExit(f"SEEMLY_DTYPE={name!r} is no torch dtype; use auto, float32, bfloat16 or float16")
    return dtype


def main() -> None:
    """Run a worker until it is told to stop; the exit code is 0 only after it has drained."""
    settings = Settings()
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    disarm_rq()
    threads = settings.torch_threads or torch.get_num_threads()
    # Every thread that computes gets an OpenMP pool of its own. Two pools are more threads than cores, and then OpenMP
    # puts them to sleep between any two operators instead of letting them spin: a quarter of the throughput. The
    # engine's thread shall have the only pool, so this one computes alone.
    torch.set_num_threads(1)
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    loaded = load(settings.model, name=settings.model_name, device=device, dtype=dtype)
    torch.set_num_threads(threads)
    limits = EngineLimits(settings.unet_rows, settings.pictures_in_flight, settings.pictures_judged)
    engine = Engine(loaded.parts, loaded.methods, limits)
    variants = VariantShelf(settings.variants, loaded.parts, loaded.info.weights_sha256, settings.variant_bytes)
    metrics = WorkerMetrics()
    store = open_store(settings.picture_store_url)
    with MetricsServer(metrics, settings.metrics_port, settings.metrics_host):
        connection = connect(settings.redis_url)
        worker = Worker(settings, connection, engine, loaded.info, loaded.tokenizer_json, store, metrics, variants)
        exit_code = worker.run()
    logging.shutdown()
    if exit_code:
        os._exit(exit_code)  # an engine that failed may hold threads that never end
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
