"""The engine: continuous batching at denoising-step granularity.

One engine holds many rows at different steps, from different requests, with different methods, step counts, guidance
scales and seeds. `step` moves all of them one step on. It knows neither Redis nor any safety method.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import takewhile

import torch

from workers.engine.denoise import UnetWork, denoise
from workers.engine.judge import judge, judge_uploads
from workers.engine.model import EngineModel
from workers.engine.picture import Failure, Outcome, PictureSpec, Progress, Tick
from workers.engine.row import Row, failure_from
from workers.engine.schedule import Schedule, build_schedule
from workers.engine.weights import NOTHING_SWAPPED
from workers.safety.protocol import BuildRowSafety, Conditioning

CANCELED = Failure("canceled", "canceled on request")
EXPIRED = Failure("expired", "the deadline passed before the picture was finished")


@dataclass(frozen=True)
class EngineLimits:
    """How much one step may hold."""

    unet_rows: int = 32  # per UNet call; more rows than that are run in several calls
    pictures_in_flight: int = 16
    pictures_judged: int = 4  # decoded and judged together


class Engine:
    """Rows in flight over one model. `submit`, `cancel` and `wait_for_work` may be called from any thread."""

    def __init__(
        self,
        model: EngineModel,
        build_safety: BuildRowSafety,
        limits: EngineLimits | None = None,
        watch: Callable[[Tick], None] | None = None,
    ) -> None:
        self._model = model
        self._build_safety = build_safety
        self._limits = limits or EngineLimits()
        self._watch = watch
        self._schedules: dict[tuple[str, int], Schedule] = {}
        self._rows: list[Row] = []
        self._waiting: deque[PictureSpec] = deque()
        self._uploads: deque[PictureSpec] = deque()
        self._canceled: set[str] = set()
        self._unresolved = 0  # pictures submitted whose outcome has not come out
        self._changed = threading.Condition()

    @property
    def is_idle(self) -> bool:
        """Every picture submitted so far has come out."""
        return self._unresolved == 0

    def submit(self, *specs: PictureSpec) -> None:
        """Ask for pictures, those of one group in one go, or for verdicts on uploads.

        Their outcomes come out of later steps, whatever happens.
        """
        with self._changed:
            self._waiting.extend(spec for spec in specs if not spec.views)
            self._uploads.extend(spec for spec in specs if spec.views)
            self._unresolved += len(specs)
            self._changed.notify()

    def cancel(self, job_id: str) -> None:
        """Drop a job's pictures at the next step; each comes out with the failure `canceled`."""
        with self._changed:
            self._canceled.add(job_id)

    def wait_for_work(self, timeout_s: float) -> bool:
        """Block until there is something to do, at most `timeout_s`; whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_idle, timeout_s)

    @torch.no_grad()
    def step(self) -> list[Progress | Outcome]:
        """One tick: drop and admit, predict and advance every row, decode and judge the finished, hand out the rest.

        Uploads need no steps: some are judged in every tick, between the steps of the others.
        """
        outcomes = [*self._drop(), *self._admit()]
        running = [row for row in self._rows if not row.is_finished]
        began, work = time.monotonic(), UnetWork()
        for rows in _alike(running, lambda row: (row.shape, id(row.swapped))):
            denoise(rows, self._model, self._limits.unet_rows, work)
        if running and self._watch is not None:
            seconds = time.monotonic() - began
            self._watch(Tick(len(running), work.calls, work.rows, work.padding, seconds))
        outcomes += [row.outcome() for row in self._rows if row.failure]
        finished = [row for row in self._rows if row.is_finished and not row.failure][: self._limits.pictures_judged]
        for rows in _alike(finished, lambda row: row.shape):
            outcomes += judge(rows, self._model)
        if uploads := self._some_uploads():
            outcomes += judge_uploads(uploads, self._model)
        self._rows = [row for row in self._rows if not row.failure and row not in finished]
        if not self._rows:
            self._model.weights.put(NOTHING_SWAPPED)  # keep no variant in memory that nobody uses
        with self._changed:
            self._unresolved -= len(outcomes)
        return [*(row.progress for row in running if not row.failure), *outcomes]

    def _drop(self) -> list[Outcome]:
        """Take out what is canceled or past its deadline, waiting or in flight."""
        with self._changed:
            canceled, self._canceled = self._canceled, set()
            waiting = [(spec, _over(spec, canceled)) for spec in (*self._waiting, *self._uploads)]
            self._waiting = deque(spec for spec, over in waiting if over is None and not spec.views)
            self._uploads = deque(spec for spec, over in waiting if over is None and spec.views)
        in_flight = [(row, _over(row.spec, canceled)) for row in self._rows]
        for row, over in in_flight:
            row.failure = over
        self._rows = [row for row, over in in_flight if over is None]
        return [
            *(row.outcome() for row, over in in_flight if over is not None),
            *(Outcome(spec, failure=over) for spec, over in waiting if over is not None),
        ]

    def _admit(self) -> list[Outcome]:
        """Turn waiting pictures into rows while there is room; a picture that cannot start fails alone."""
        failures = []
        for spec in self._admissible():
            try:
                self._rows.append(self._start(spec))
            except torch.AcceleratorError:
                raise  # the device is lost; nothing in this process can run on it again
            except Exception as error:  # noqa: BLE001 - whatever it is, it is this picture's own
                failures.append(Outcome(spec, failure=failure_from(error)))
        return failures

    def _admissible(self) -> Iterator[PictureSpec]:
        """Waiting pictures in order, a group's together: it waits for room for all of it, at worst for all there is."""
        while True:
            with self._changed:
                if not self._waiting:
                    return
                together = _together(self._waiting)
                if self._rows and len(self._rows) + together > self._limits.pictures_in_flight:
                    return
                admitted = [self._waiting.popleft() for _ in range(together)]
            yield from admitted

    def _some_uploads(self) -> list[PictureSpec]:
        """Those next in turn, whose views fill one call of the detectors."""
        taken: list[PictureSpec] = []
        with self._changed:
            while self._uploads and sum(len(spec.views) for spec in taken) < self._limits.pictures_judged:
                taken.append(self._uploads.popleft())
        return taken

    def _start(self, spec: PictureSpec) -> Row:
        """A picture's row, with its first noise.

        The noise is drawn on the CPU in float32 whatever the device, so that a seed means the same everywhere.
        """
        demanded, weights = spec.plan.weights, spec.weights
        if (demanded.variant if demanded else None) != (weights.name if weights else None):
            raise ValueError("the weights that the plan demands were not given with the picture")
        began = time.time()
        schedule = self._schedule(spec)
        conditioning = Conditioning(spec.prompt, spec.negative_prompt, spec.guidance_scale, spec.steps)
        safety = self._build_safety(spec.plan, conditioning)
        generator = torch.Generator("cpu").manual_seed(spec.seed)
        noise = torch.randn(self._model.latent_shape(spec.width, spec.height), generator=generator)
        latents = noise.to(self._model.device, self._model.latent_dtype) * schedule.init_scale
        project_text = weights.project_text if weights else self._model.project_text
        texts = torch.stack([self._model.prompts.encode(text) for text in safety.guidance.texts])
        row = Row(
            spec=spec,
            schedule=schedule,
            safety=safety,
            texts=project_text(texts),
            project_text=project_text,
            latents=latents,
            clean=torch.zeros_like(latents),
            entered=[("text", began)],
        )
        row.enter("denoise")
        return row

    def _schedule(self, spec: PictureSpec) -> Schedule:
        key = (spec.scheduler.value, spec.steps)
        if key not in self._schedules:
            self._schedules[key] = build_schedule(spec.scheduler, spec.steps, self._model.scheduler_config)
        return self._schedules[key]


def _together(waiting: Sequence[PictureSpec]) -> int:
    """How many of the waiting pictures, from the first, are to be started at once."""
    group = waiting[0].group
    return 1 if group is None else sum(1 for _ in takewhile(lambda spec: spec.group == group, waiting))


def _over(spec: PictureSpec, canceled: set[str]) -> Failure | None:
    """Why a picture is no longer wanted, if so."""
    if spec.job_id in canceled:
        return CANCELED
    if spec.deadline_at is not None and datetime.now(UTC) >= spec.deadline_at:
        return EXPIRED
    return None


def _alike(rows: list[Row], key: Callable[[Row], Hashable]) -> list[list[Row]]:
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())
