"""Progress of running jobs, told to their event streams at most once per tick for all of them together.

`step` and `steps` are sums over a job's pictures: four pictures of 25 steps count from 0 to 100.
"""

import json
import threading

from redis import Redis

from contract import keys, record
from workers.engine.picture import Progress


class ProgressBoard:
    """Collects the newest step of every picture; `flush` writes what changed in one pipeline."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._steps: dict[str, list[int]] = {}  # job id → steps done, per picture
        self._totals: dict[str, int] = {}
        self._changed: set[str] = set()

    def open(self, job_id: str, pictures: int, steps: int) -> None:
        """Begin to follow a job of so many pictures of so many steps each."""
        with self._lock:
            self._steps[job_id] = [0] * pictures
            self._totals[job_id] = pictures * steps

    def note(self, progress: Progress) -> None:
        """A picture has moved on. Touches no network: called between two steps of the engine."""
        with self._lock:
            if progress.job_id in self._steps:
                self._steps[progress.job_id][progress.index] = progress.step
                self._changed.add(progress.job_id)

    def close(self, job_id: str) -> None:
        """Forget a job, so that nothing follows its `finished` event."""
        with self._lock:
            self._steps.pop(job_id, None)
            self._totals.pop(job_id, None)
            self._changed.discard(job_id)

    def flush(self) -> None:
        """Write one `progress` event for each job that moved since the last time."""
        with self._lock:
            due = {job_id: (sum(self._steps[job_id]), self._totals[job_id]) for job_id in self._changed}
            self._changed.clear()
        if not due:
            return
        with self._connection.pipeline(transaction=False) as pipeline:
            for job_id, (step, steps) in due.items():
                stream = keys.events_key(job_id)
                event = {"type": "progress", "data": json.dumps({"step": step, "steps": steps})}
                pipeline.xadd(stream, event, maxlen=record.EVENTS_MAXLEN, approximate=True)  # type: ignore[arg-type]
                pipeline.expire(stream, record.EVENTS_TTL_S)
            pipeline.execute()
