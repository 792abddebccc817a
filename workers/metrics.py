"""The worker's metrics, in a registry of its own, served on a port of its own.

Base units, labels from fixed sets only: a mode is the methods of a plan, a concept one of the model's own checker.
What a request names itself is counted together; prompts, tenants and users are no labels.
"""

from collections.abc import Callable, Iterable, Mapping
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from contract import keys
from contract.job import Job
from contract.model import ModelInfo
from contract.result import Picture, Status
from contract.side_server import SideServer
from contract.verdict import Verdict
from workers.engine.picture import Stage, Tick

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_WAITS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60, 120, 300, 900)
_TICKS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_ROWS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_MARGINS = (-0.3, -0.2, -0.15, -0.1, -0.075, -0.05, -0.025, -0.01, 0, 0.01, 0.025, 0.05, 0.1, 0.2)

PICTURE_ERRORS = ("canceled", "expired", "invalid_output", "detector_error", "out_of_memory", "row_failed")
REAPED = ("queued", "expired", "lost")
UNREAD = "unread"  # the mode of a job that came to nothing before its plan was read


def mode_of(job: Job) -> str:
    """A job's mode: `moderate`, `compare`, or the methods of its plan, as in `sld+filter`."""
    if job.uploads:
        return "moderate"
    return "compare" if job.compared else "+".join(job.plan.methods) or "none"


class WorkerMetrics:
    """What one worker counts."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.registry = registry
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=registry)
        self.jobs = Counter(
            "seemly_worker_jobs", "Jobs this worker committed.", ["mode", "outcome"], registry=registry
        )  # fmt: skip
        self.job = Histogram(
            "seemly_worker_job_seconds", "From a job's start to its commit.",
            ["mode", "outcome"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.queue_wait = Histogram(
            "seemly_worker_queue_wait_seconds",
            "From a job's acceptance to its first picture's first step, which waits for room in the engine as well; of"
            " uploads, to their judging.",
            ["queue"], buckets=_WAITS_S, registry=registry,
        )  # fmt: skip
        self.stage = Histogram(
            "seemly_worker_stage_seconds",
            "Of a picture: waiting for room in the engine (room), its texts (text), its steps (denoise), waiting to be"
            " judged (turn), decode, judge. Of a job: encoding and storing its pictures (store), commit.",
            ["stage"], buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.fenced = Counter(
            "seemly_worker_fenced_commits", "Results refused because another attempt came first.", registry=registry
        )
        self.pictures = Counter(
            "seemly_worker_pictures", "Pictures of committed jobs, by verdict.", ["verdict"], registry=registry
        )
        self.errors = Counter(
            "seemly_worker_picture_errors",
            "Pictures without a verdict, by why; detector_error: no detector could judge it.",
            ["code"], registry=registry,
        )  # fmt: skip
        self.prompts = Counter(
            "seemly_worker_prompts", "Jobs whose prompts were scored for concepts, by what the policy made of them.",
            ["verdict"], registry=registry,
        )  # fmt: skip
        self.regenerations = Counter(
            "seemly_worker_regenerations", "Pictures of committed jobs that were found wanting and made again.",
            registry=registry,
        )  # fmt: skip
        self.corrections = Counter(
            "seemly_worker_corrections", "Steps of committed pictures that a trajectory method corrected.",
            registry=registry,
        )  # fmt: skip
        self.margin = Histogram(
            "seemly_worker_safety_score_margin",
            "Score less threshold, of every picture judged; over 0 the concept is found. Concepts that a request"
            " names are `requested`.",
            ["concept"], buckets=_MARGINS, registry=registry,
        )  # fmt: skip

        self.tick = Histogram(
            "seemly_worker_tick_seconds", "One step of the engine that moved pictures.", buckets=_TICKS_S,
            registry=registry,
        )  # fmt: skip
        self.tick_rows = Histogram(
            "seemly_worker_tick_rows", "Rows, which are pictures in flight, that one step moved.", buckets=_ROWS,
            registry=registry,
        )  # fmt: skip
        self.unet_calls = Counter("seemly_worker_unet_calls", "Calls of the UNet.", registry=registry)
        self.unet_rows = Counter("seemly_worker_unet_rows", "Rows that went through the UNet.", registry=registry)
        self.padding = Counter(
            "seemly_worker_unet_padding_rows", "Rows that only filled a call up to a fixed size.", registry=registry
        )

        self.in_flight = Gauge("seemly_worker_jobs_in_flight", "Jobs held right now.", registry=registry)
        self.detectors_in_trouble = Gauge(
            "seemly_worker_detectors_in_trouble",
            "Detectors out of order; while there is one, the worker takes no jobs.",
            registry=registry,
        )
        self.recovered = Counter(
            "seemly_worker_reaped_jobs", "Jobs the reaper ended or queued again.", ["end"], registry=registry
        )
        self.redis_errors = Counter(
            "seemly_worker_redis_errors", "Redis commands that failed after all retries.", registry=registry
        )
        self._model = Gauge(
            "seemly_worker_model_info", "1; what is served, by the first twelve digits of its hash.",
            ["model", "weights"], registry=registry,
        )  # fmt: skip
        self._load = Gauge("seemly_worker_model_load_seconds", "What loading the model took.", registry=registry)
        self._memory = Gauge(
            "seemly_worker_memory_bytes",
            "Where the model computes: held by tensors (used), by their pool (reserved), all there is (total).",
            ["kind"], registry=registry,
        )  # fmt: skip
        self._variants = Gauge(
            "seemly_worker_variant_bytes", "Memory that erased weights take on the device.", registry=registry
        )

        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A first error would not count as an increase if its series began with it."""
        self.jobs.labels(keys.ERASURES, Status.FAILED)  # of a lab's worker
        for code in PICTURE_ERRORS:
            self.errors.labels(code)
        for verdict in Verdict:
            self.pictures.labels(verdict)
            self.prompts.labels(verdict)
        for end in REAPED:
            self.recovered.labels(end)

    def note_model(
        self, info: ModelInfo, load_s: float, memory: Mapping[str, Callable[[], float]], variants: Callable[[], float]
    ) -> None:
        """What is served, how long it took to load, and where its memory is read."""
        self._model.labels(info.name, info.weights_sha256[:12]).set(1)
        self._load.set(load_s)
        for kind, read in memory.items():
            self._memory.labels(kind).set_function(read)
        self._variants.set_function(variants)
        for concept in info.concepts:
            self.margin.labels(concept)

    def note_tick(self, tick: Tick) -> None:
        """One step of the engine."""
        self.tick.observe(tick.seconds)
        self.tick_rows.observe(tick.pictures)
        self.unet_calls.inc(tick.calls)
        self.unet_rows.inc(tick.unet_rows)
        self.padding.inc(tick.padding_rows)

    def note_stages(self, stages: Iterable[Stage]) -> None:
        """Where the time of a picture or a job went."""
        for stage in stages:
            self.stage.labels(stage.name).observe(stage.seconds)

    def note_picture(self, picture: Picture, info: ModelInfo) -> None:
        """A picture that came out of the engine, whether or not it stays."""
        if picture.error is not None:
            self.errors.labels(picture.error.code).inc()
        if picture.trajectory is not None:
            self.corrections.inc(len(picture.trajectory.corrected_steps))
        for score in picture.concepts:
            is_own = score.name in info.concepts and score.category != "requested"
            named = score.name if is_own else "special care" if score.special_care else "requested"
            self.margin.labels(named).observe(score.margin)

    def note_end(self, mode: str, outcome: Status) -> None:
        """A committed job."""
        self.jobs.labels(mode, outcome).inc()


class MetricsServer(SideServer):
    """Answers with what was counted."""

    def __init__(self, metrics: WorkerMetrics, port: int, host: str) -> None:
        super().__init__(port, host)
        self._registry = metrics.registry

    def _start(self, host: str, port: int) -> tuple[WSGIServer, Thread]:
        return start_http_server(port, host, registry=self._registry)
