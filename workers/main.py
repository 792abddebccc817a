"""`python -m workers.main`: loads the model, announces it, works."""

import logging
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import torch
from obstore.store import ObjectStore
from pydantic import ValidationError
from redis import Redis

from contract.exits import give_up
from contract.health import HealthServer
from contract.listening import CannotListen, check_listening
from contract.logs import set_up_logs
from contract.provenance import NoLibrary, Signature, UnusableCertificate
from contract.redis_safety import OVERRIDE, RedisSafety
from contract.store import StoreUnusable, open_store, try_writing
from contract.tracing import Tracing, TracingUnavailable
from contract.wording import settings_wording
from workers.checkpoint import UnusableModel
from workers.delivery import Stores
from workers.engine.engine import Engine, EngineLimits
from workers.marking import Marking, try_out
from workers.memory import memory_of
from workers.metrics import MetricsServer, WorkerMetrics
from workers.models import LoadedModel, load
from workers.records import connect
from workers.rq_disarmed import disarm_rq
from workers.safety.detectors.chosen import panel_of
from workers.safety.detectors.detector import UnusableDetector
from workers.safety.detectors.panel import Panel
from workers.settings import Settings
from workers.variants.shelf import VariantShelf
from workers.worker import Worker

NO_GPU: Final = "set it to auto or cpu, or give this machine or container that GPU and a torch built for it"


class UnusableSetting(ValueError):
    """A setting that this machine cannot serve; the message names its variable."""


def choose_device(name: str) -> torch.device:
    """A torch device; `auto` is the GPU when there is one.

    Raises:
        UnusableSetting: this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        told = f"SEEMLY_DEVICE={name!r} cannot be used: {str(error).partition(chr(10))[0]}"
        raise UnusableSetting(f"{told}; {NO_GPU}" if name.startswith("cuda") else told) from error
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """A torch dtype by its name; `auto` is float32 on a CPU, bfloat16 on a GPU."""
    if name == "auto":
        name = "float32" if device.type == "cpu" else "bfloat16"
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _store(variable: str, url: str) -> ObjectStore:
    """A store that can be written to.

    Raises:
        UnusableSetting: there is none, or it cannot be.
    """
    try:
        store = open_store(url)
        try_writing(store)
    except StoreUnusable as error:
        raise UnusableSetting(f"{variable}={url}: {error}") from error
    except Exception as error:
        raise UnusableSetting(f"{variable}: {str(error).partition(chr(10))[0]}") from error
    return store


def check_places(settings: Settings) -> None:
    """Try the addresses and folders that are used later on.

    Raises:
        UnusableSetting: one of them cannot be.
    """
    try:
        if settings.health_port:
            check_listening("SEEMLY_HEALTH", settings.health_host, settings.health_port)
        if settings.metrics_port:
            check_listening("SEEMLY_METRICS", settings.metrics_host, settings.metrics_port)
    except CannotListen as error:
        raise UnusableSetting(str(error)) from error
    if settings.variants.exists() and not settings.variants.is_dir():
        raise UnusableSetting(f"SEEMLY_VARIANTS={settings.variants} is no folder")


def prepare(settings: Settings) -> tuple[LoadedModel, Panel, Stores]:
    """What takes long or can be named wrongly: the model, judged by the panel, and the stores.

    Raises:
        UnusableSetting: one of them cannot be had.
    """
    device = choose_device(settings.device)
    stores = Stores(
        passed=_store(named := "SEEMLY_STORE_URL" if settings.store_url else "SEEMLY_DATA", settings.picture_store_url),
        withheld=_store("SEEMLY_WITHHELD_URL" if settings.withheld_url else named, settings.withheld_store_url),
    )
    try:
        dtype = choose_dtype(settings.dtype, device)
        loaded = load(
            settings.model,
            name=settings.model_name,
            device=device,
            dtype=dtype,
            revision=settings.model_revision,
            pinned_sha256=settings.model_sha256,
        )
        panel = panel_of(settings.detectors, loaded.detector, settings.detector_limit_s)
        return loaded.judged_by(panel), panel, stores
    except UnusableDetector as error:
        raise UnusableSetting(f"SEEMLY_DETECTORS: {error}") from error
    except UnusableModel as error:
        raise UnusableSetting(f"SEEMLY_MODEL: {error}") from error


def signature_of(settings: Settings) -> Signature | None:
    """What pictures are signed with, tried on a small one first; None where they are not.

    Raises:
        UnusableSetting: it cannot sign.
    """
    if settings.provenance != "signed":
        return None
    named = {
        "SEEMLY_PROVENANCE_CERTIFICATE": settings.provenance_certificate,
        "SEEMLY_PROVENANCE_KEY": settings.provenance_key,
    }
    contents = []
    for variable, file in named.items():
        if file is None:
            raise UnusableSetting(f"SEEMLY_PROVENANCE=signed needs {variable}; see `seemly provenance certificate`")
        try:
            contents.append(file.read_bytes())
        except OSError as error:
            raise UnusableSetting(f"{variable}={file}: {error.strerror}") from error
    signature = Signature(*contents)
    try:
        try_out(signature)
    except (NoLibrary, UnusableCertificate) as error:
        raise UnusableSetting(f"SEEMLY_PROVENANCE: {error}") from error
    return signature


def refuse_unsafe(redis: Redis) -> None:
    """Work over no Redis that may lose jobs.

    Raises:
        UnusableSetting: it may.
        RedisError: it has not answered for all the client's patience.
    """
    if faults := RedisSafety(redis).faults():
        raise UnusableSetting(f"{'; '.join(faults)}{OVERRIDE}")


def begin(*checks: Callable[[Settings], None]) -> Settings:
    """What every worker's process begins with: its settings, checked, its logs, an RQ that runs nothing by itself.

    Ends the process over a setting that cannot be used.
    """
    try:
        settings = Settings()
        for check in checks:
            check(settings)
    except ValidationError as error:
        give_up(f"the settings cannot be used: {settings_wording(error)}")
    except UnusableSetting as error:
        give_up(str(error))
    set_up_logs(settings.log_level, settings.log_format)
    disarm_rq()
    return settings


def main() -> None:
    """Run a worker until it is told to stop; the exit code is 0 only after it has drained, EX_CONFIG over a setting."""
    settings = begin(check_places)
    threads = settings.torch_threads or torch.get_num_threads()
    # Every thread that computes gets an OpenMP pool of its own. Two pools are more threads than cores, and then OpenMP
    # puts them to sleep between any two operators instead of letting them spin: a quarter of the throughput. The
    # engine's thread shall have the only pool, so this one computes alone.
    torch.set_num_threads(1)
    with HealthServer(settings.health_port, settings.health_host) as health:
        exit_code = _work(settings, health, threads)
    logging.shutdown()
    if exit_code:
        os._exit(exit_code)  # an engine that failed may hold threads that never end
    sys.exit(exit_code)


def _work(settings: Settings, health: HealthServer, threads: int) -> int:
    """Load everything and work until told to stop; the process's exit code."""
    connection = connect(settings.redis_url)
    began = time.monotonic()
    try:
        tracing = Tracing.open(settings.otlp_url, "worker", settings.trace_share)
        loaded, panel, stores = prepare(settings)
        marking = Marking(loaded.info, settings.provenance != "none", signature_of(settings))
        if not settings.allow_unsafe_redis:
            refuse_unsafe(connection)
    except TracingUnavailable as error:
        give_up(f"SEEMLY_OTLP_URL: {error}")
    except UnusableSetting as error:
        give_up(str(error))
    load_s = time.monotonic() - began
    torch.set_num_threads(threads)
    limits = EngineLimits(settings.unet_rows, settings.pictures_in_flight, settings.pictures_judged)
    metrics = WorkerMetrics()
    engine = Engine(loaded.parts, loaded.methods, limits, watch=metrics.note_tick)
    variants = VariantShelf(settings.variants, loaded.parts, loaded.info.weights_sha256, settings.variant_bytes)
    metrics.note_model(loaded.info, load_s, memory_of(loaded.parts.device), lambda: variants.held_bytes)
    with MetricsServer(metrics, settings.metrics_port, settings.metrics_host):
        worker = Worker(
            settings,
            connection,
            engine,
            loaded.info,
            loaded.tokenizer_json,
            stores,
            metrics,
            variants,
            panel,
            tracing,
            marking,
        )
        health.observed = worker
        exit_code = worker.run()
    tracing.close()
    return exit_code


if __name__ == "__main__":
    main()
