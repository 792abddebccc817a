"""From the engine back to Redis: outcomes collected per job, pictures stored, one fenced commit.

A delivery removes the files of the attempts before it. When a job ends without one, they stay, unreadable without a
result that names them, until `workers.sweeper` finds them.
"""

import contextlib
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import obstore
from obstore.store import ObjectStore
from redis.exceptions import RedisError

from contract import keys
from contract.job import Job, picture_key, thumbnail_key
from contract.model import ModelInfo
from contract.prompt_concepts import TextScore
from contract.request import OutputFormat
from contract.result import Result, Status
from contract.tracing import Tracing
from workers.blur import thumbnail
from workers.comparison import Distances, with_comparison
from workers.encode import encode
from workers.engine.picture import Outcome, PictureSpec, Progress, Stage
from workers.evidence import verdicts_of
from workers.job_trace import trace_job
from workers.marking import Marking
from workers.metrics import WorkerMetrics, mode_of
from workers.policies import PolicyReader
from workers.records import JobRecords, persistently
from workers.reproduction import reproduction_of
from workers.results import Judged, Timing, judge, made_again, released, result_of, shadow_of

log = logging.getLogger(__name__)


class PictureEngine(Protocol):
    """What the worker needs of an engine. `step` is called by one thread, the rest by any."""

    @property
    def is_idle(self) -> bool: ...  # noqa: D102

    def submit(self, *specs: PictureSpec) -> None: ...  # noqa: D102

    def cancel(self, job_id: str) -> None: ...  # noqa: D102

    def step(self) -> list[Progress | Outcome]: ...  # noqa: D102

    def wait_for_work(self, timeout_s: float) -> bool: ...  # noqa: D102


@dataclass
class JobInFlight:
    """A started job on its way through the engine; `ticket` is whatever its queue needs to end it."""

    job: Job
    attempt: int
    ticket: Any
    texts: tuple[TextScore, ...] = ()  # what its texts were scored for
    started_at: float = field(default_factory=time.time)
    judged_at: float = 0.0
    judged: dict[int, Judged] = field(default_factory=dict)  # by the picture's index
    distances: Distances = field(default_factory=Distances)  # of a compare
    discarded: dict[int, tuple[Judged, ...]] = field(default_factory=dict)  # made before, by the picture's index

    @property
    def is_complete(self) -> bool:
        """Every picture has its verdict."""
        return len(self.judged) == len(self.job.seeds)

    @property
    def first_step_at(self) -> float | None:
        """When the first of its pictures took its first step, of uploads, when the first was judged; None: none was."""
        made = [*self.judged.values(), *(one for each in self.discarded.values() for one in each)]
        begun = [stage.began for one in made for stage in one.outcome.stages if stage.name == self._begins_with]
        return min(begun, default=None)

    @property
    def _begins_with(self) -> str:
        return "judge" if self.job.uploads else "denoise"

    def submitted_at(self, index: int) -> float:
        """When the picture that is made in this place now was given to the engine."""
        before = [made.outcome.stages for made in self.discarded.get(index, ())]
        return before[-1][-1].ended if before and before[-1] else self.started_at


@dataclass(frozen=True)
class Stores:
    """Where pictures go: those that passed, and those that only a person who reviews may see."""

    passed: ObjectStore
    withheld: ObjectStore


class StoreFailed(Exception):
    """The store refused a picture; nothing of the job is left in it."""


class Delivery:
    """Turns complete jobs into committed results. `collect` is for the engine's thread, `deliver` the finaliser's."""

    def __init__(
        self,
        info: ModelInfo,
        stores: Stores,
        records: JobRecords,
        policies: PolicyReader,
        metrics: WorkerMetrics,
        on_complete: Callable[[JobInFlight], None],
        tracing: Tracing | None = None,
        marking: Marking | None = None,
    ) -> None:
        self._info = info
        self._marking = marking or Marking(info)
        self._stores = stores
        self._records = records
        self._policies = policies
        self._metrics = metrics
        self._on_complete = on_complete
        self._tracing = tracing or Tracing()

    def collect(self, in_flight: JobInFlight, outcome: Outcome) -> PictureSpec | None:
        """Judge one picture; with the last one the job is handed on. What is to be made in its place, if anything."""
        index = outcome.spec.index
        discarded = in_flight.discarded.get(index, ())
        if index in in_flight.judged or outcome.spec.regeneration != len(discarded):
            log.error("job %s: picture %d came out twice", in_flight.job.id, index)
            return None
        own = in_flight.job.of_picture(index)
        judged = judge(outcome, own, self._info, discarded)
        self._metrics.note_picture(judged.picture, self._info)
        self._metrics.note_stages(outcome.stages)
        if outcome.stages:
            self._metrics.note_stages([Stage("room", in_flight.submitted_at(index), outcome.stages[0].began)])
        if (again := made_again(judged, own)) is not None:
            in_flight.discarded[index] = (*discarded, replace(judged, withheld=None, discarded=()))
            return again
        in_flight.judged[index] = judged
        if in_flight.job.compared:
            in_flight.distances.note(judged)
        if in_flight.is_complete:
            in_flight.judged_at = time.time()
            self._on_complete(in_flight)
        return None

    def deliver(self, in_flight: JobInFlight) -> Result | None:
        """Encode, store, commit. The committed result; None when another attempt or terminal status came first.

        Raises:
            StoreFailed: nothing was committed and nothing is left in the store.
            UnknownPolicy: likewise.
        """
        job, attempt = in_flight.job, in_flight.attempt
        began = time.time()
        in_force = persistently(lambda: self._policies.in_force(job))  # also what was tightened meanwhile
        texts = in_flight.texts
        judged = [
            released(in_flight.judged[index], job.of_picture(index), in_force, texts) for index in range(len(job.seeds))
        ]
        draft = self._result(in_flight, judged)
        reproduction = reproduction_of(job, judged, self._stores.passed, self._info)
        if draft.status in (Status.SUCCEEDED, Status.PARTIAL, Status.BLOCKED):
            judged = self._store(job, attempt, judged)
        result = self._result(in_flight, judged).model_copy(update={"reproduction": reproduction})
        shadow = tuple(shadow_of(result.images, job, in_force.watched, texts))
        evidence = verdicts_of(job, attempt, result, shadow)
        stored = time.time()
        is_committed = self._records.commit(job.id, attempt, result, evidence, in_force.policy)
        stages = [Stage("store", began, stored), Stage("commit", stored, time.time())]
        earlier = attempt if is_committed else attempt + 1
        self._remove([file for other in range(1, earlier) for file in self._files_of(job, other)])
        if not is_committed:
            self._metrics.fenced.inc()
            log.warning("job %s: attempt %d came too late and was thrown away", job.id, attempt)
            return None
        self._count(in_flight, result, stages)
        trace_job(self._tracing, job, attempt, in_flight.started_at, judged, result, stages)
        return result

    def _result(self, in_flight: JobInFlight, judged: list[Judged]) -> Result:
        result = result_of(in_flight.job, judged, self._timing(in_flight), self._info)
        result = result.model_copy(update={"texts": in_flight.texts})
        return with_comparison(result, in_flight.job, judged, in_flight.distances)

    def _timing(self, in_flight: JobInFlight) -> Timing:
        return Timing(
            in_flight.job.created_at.timestamp(), in_flight.started_at, in_flight.judged_at, finished_at=time.time()
        )

    def _store(self, job: Job, attempt: int, judged: list[Judged]) -> list[Judged]:
        """Passed pictures go to the store and get their address, those for a person to the private one; all of them
        or, after an error, none."""
        stored: list[tuple[ObjectStore, str]] = []
        delivered: list[Judged] = []
        try:
            for one in judged:
                index = one.picture.index
                pixels = one.withheld if one.pixels is None else one.pixels
                if pixels is not None:
                    is_passed = one.pixels is not None
                    file = self._marking.file_of(pixels, job, index, one.outcome.applied)
                    key = picture_key(job.id, job.tenant, attempt, index, job.output_format)
                    files = {key: file}
                    if not is_passed:
                        files[thumbnail_key(key)] = encode(thumbnail(pixels), OutputFormat.PNG)
                    store = self._stores.passed if is_passed else self._stores.withheld
                    for name, content in files.items():
                        stored.append((store, name))
                        obstore.put(store, name, content)
                    told = {
                        "url": f"/jobs/{job.id}/images/{index}" if is_passed else None,
                        "sha256": hashlib.sha256(file).hexdigest(),
                        "kept": not is_passed,
                    }
                    one = replace(one, picture=one.picture.model_copy(update=told), pixels=None, withheld=None)
                delivered.append(one)
        except Exception as error:
            self._remove(stored)
            raise StoreFailed(f"{type(error).__name__} while storing picture {len(delivered)}") from error
        return delivered

    def _remove(self, stored: list[tuple[ObjectStore, str]]) -> None:
        for store, key in stored:
            try:
                obstore.delete(store, key)
            except FileNotFoundError:
                pass
            except Exception as error:  # noqa: BLE001 - an unreferenced file is a loss of space, not of a job
                log.warning("could not remove %s from the store: %s", key, type(error).__name__)

    def _files_of(self, job: Job, attempt: int) -> list[tuple[ObjectStore, str]]:
        """Everything that an attempt may have stored."""
        names = [picture_key(job.id, job.tenant, attempt, index, job.output_format) for index in range(len(job.seeds))]
        passed = [(self._stores.passed, name) for name in names]
        return passed + [(self._stores.withheld, file) for name in names for file in (name, thumbnail_key(name))]

    def _count(self, in_flight: JobInFlight, result: Result, stages: list[Stage]) -> None:
        mode, service_s = mode_of(in_flight.job), stages[-1].ended - in_flight.started_at
        self._metrics.note_end(mode, result.status)
        self._metrics.note_stages(stages)
        for picture in result.images:
            self._metrics.pictures.labels(picture.verdict).inc()
            self._metrics.regenerations.inc(len(picture.discarded))
        if (began := in_flight.first_step_at) is not None:
            waited_s = max(0.0, began - in_flight.job.created_at.timestamp())
            self._metrics.queue_wait.labels(keys.queue_name(in_flight.job.model)).observe(waited_s)
        if result.metrics is not None:
            self._metrics.job.labels(mode, result.status).observe(service_s)
            with contextlib.suppress(RedisError):  # only estimates hang on it
                self._records.note_service_time(service_s)
                if not in_flight.job.uploads:
                    self._records.note_scores(in_flight.job, result.images)
