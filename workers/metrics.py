"""The worker's metrics, in a registry of its own, served on a port of its own."""

from threading import Thread
from types import TracebackType
from typing import Self
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class WorkerMetrics:
    """Base units, labels from fixed sets only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.jobs = Counter(
            "seemly_worker_jobs", "Jobs this worker committed, by terminal status.", ["status"], registry=self.registry
        )
        self.fenced = Counter(
            "seemly_worker_fenced_commits",
            "Results refused because another attempt came first.",
            registry=self.registry,
        )
        self.pictures = Counter(
            "seemly_worker_pictures", "Pictures of committed jobs, by verdict.", ["verdict"], registry=self.registry
        )
        self.regenerations = Counter(
            "seemly_worker_regenerations",
            "Pictures of committed jobs that were found wanting and made again.",
            registry=self.registry,
        )
        self.stage = Histogram(
            "seemly_worker_stage_seconds",
            "Seconds a job spent waiting (queue), in the engine (inference), being encoded and stored (store).",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.unet_rows = Counter("seemly_worker_unet_rows", "Rows that went through the UNet.", registry=self.registry)
        self.in_flight = Gauge("seemly_worker_jobs_in_flight", "Jobs held right now.", registry=self.registry)
        self.detectors_in_trouble = Gauge(
            "seemly_worker_detectors_in_trouble",
            "Detectors out of order; while there is one, the worker takes no jobs.",
            registry=self.registry,
        )
        self.recovered = Counter(
            "seemly_worker_reaped_jobs", "Jobs the reaper ended or queued again.", ["end"], registry=self.registry
        )
        self.redis_errors = Counter(
            "seemly_worker_redis_errors", "Redis commands that failed after all retries.", registry=self.registry
        )


class MetricsServer:
    """Serves /metrics while it is entered; on port 0, nothing."""

    def __init__(self, metrics: WorkerMetrics, port: int, host: str) -> None:
        self._metrics = metrics
        self._port = port
        self._host = host
        self._running: tuple[WSGIServer, Thread] | None = None

    def __enter__(self) -> Self:
        if self._port:
            self._running = start_http_server(self._port, self._host, registry=self._metrics.registry)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join()
