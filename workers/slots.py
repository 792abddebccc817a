"""The jobs that a worker holds at once, and the room that is left for more."""

import threading
import time
from collections.abc import Callable

from workers.delivery import JobInFlight
from workers.metrics import WorkerMetrics

LOOKS_EVERY_S = 0.02


class Slots:
    """Jobs in flight by their ids, each in a slot. `held` is for reading, by any thread."""

    def __init__(self, count: int, metrics: WorkerMetrics) -> None:
        self.held: dict[str, JobInFlight] = {}
        self._metrics = metrics
        self._free = threading.Semaphore(count)
        self._leaving = threading.Lock()  # a job is taken again while its attempt before still leaves

    def reserve(self, timeout_s: float) -> bool:
        """Keep a slot for a job that is about to be taken; False when none gets free in time."""
        return self._free.acquire(timeout=timeout_s)

    def give_back(self) -> None:
        """No job came for a slot that was reserved."""
        self._free.release()

    def hold(self, one: JobInFlight) -> None:
        """A job is in flight, in the slot that was reserved."""
        with self._leaving:
            self.held[one.job.id] = one
        self._count()

    def drop(self, one: JobInFlight) -> None:
        """An attempt could not be begun after all; its slot stays reserved."""
        with self._leaving:
            if self.held.get(one.job.id) is one:
                del self.held[one.job.id]
        self._count()

    def leave(self, done: JobInFlight) -> None:
        """An attempt has left: its slot is another's."""
        self.drop(done)
        self._free.release()

    def wait_until_empty(self, is_over: Callable[[], bool]) -> bool:
        """Wait until nothing is in flight; False when the wait is over first."""
        while self.held:
            if is_over():
                return False
            time.sleep(LOOKS_EVERY_S)
        return True

    def _count(self) -> None:
        self._metrics.in_flight.set(len(self.held))
