"""Progress of running jobs, told to their event streams at most once per tick for all of them together.

`step` and `steps` are sums over a job's pictures: four pictures of 25 steps count from 0 to 100. A picture that is made
again adds its steps to both, so neither ever falls. An event is fenced as a commit is: a worker that was frozen tells
nothing about a job that has gone on without it.
"""

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from redis import Redis

from contract import keys, record
from contract.job import Job
from contract.result import Status
from workers.engine.picture import PictureSpec, Progress

# KEYS = record, events stream; ARGV = attempt, data
_TELL = f"""
local record = redis.call('HMGET', KEYS[1], 'status', 'attempt')
if record[1] ~= '{Status.RUNNING}' or record[2] ~= ARGV[1] then return end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', '{record.EVENTS_MAXLEN}', '*', 'type', 'progress', 'data', ARGV[2])
redis.call('EXPIRE', KEYS[2], '{record.EVENTS_TTL_S}')
"""


@dataclass
class _Followed:
    attempt: int
    steps_each: int
    made: list[int]  # pictures made or begun in each place
    done: list[int]  # steps of the latest in each place

    @property
    def data(self) -> dict[str, int]:
        step = sum(done + (made - 1) * self.steps_each for done, made in zip(self.done, self.made, strict=True))
        return {"step": step, "steps": sum(self.made) * self.steps_each}


class ProgressBoard:
    """Collects the newest step of every picture; `flush` writes what changed in one pipeline."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._followed: dict[str, _Followed] = {}
        self._changed: set[str] = set()

    def open(self, job: Job, attempt: int) -> None:
        """Begin to follow a job."""
        pictures = len(job.seeds)
        with self._lock:
            self._followed[job.id] = _Followed(attempt, job.steps, [1] * pictures, [0] * pictures)

    def again(self, spec: PictureSpec) -> None:
        """A picture is made once more."""
        with self._lock:
            if (followed := self._followed.get(spec.job_id)) is not None:
                followed.made[spec.index] += 1
                followed.done[spec.index] = 0

    def note(self, progress: Progress) -> None:
        """A picture has moved on. Touches no network: called between two steps of the engine."""
        with self._lock:
            if (followed := self._followed.get(progress.job_id)) is not None:
                followed.done[progress.index] = progress.step
                self._changed.add(progress.job_id)

    def close(self, job_id: str) -> None:
        """Forget a job, so that nothing follows its `finished` event."""
        with self._lock:
            self._followed.pop(job_id, None)
            self._changed.discard(job_id)

    def flush(self) -> None:
        """Write one `progress` event for each job that moved since the last time."""
        with self._lock:
            due = [(job_id, self._followed[job_id]) for job_id in self._changed]
            self._changed.clear()
        if not due:
            return
        with self._connection.pipeline(transaction=False) as pipeline:
            for job_id, followed in due:
                tell(pipeline, job_id, followed.attempt, followed.data)
            pipeline.execute()


def tell(connection: Redis, job_id: str, attempt: int, data: Mapping[str, object]) -> None:
    """Write a `progress` event, unless another attempt has begun or the job is over. Takes a pipeline as well."""
    connection.eval(_TELL, 2, keys.job_key(job_id), keys.events_key(job_id), attempt, json.dumps(data))
