"""A worker's time at work: its threads, and whether it must end. The same for every kind of worker."""

import threading
from collections.abc import Callable, Mapping

from workers.lifecycle import RqWorker
from workers.trouble import log_error


class Shift:
    """Runs threads beside the main one. However one of them fails, the process must end and be started anew, never go
    on without it."""

    def __init__(self, rq: RqWorker) -> None:
        self._rq = rq
        self._threads: list[threading.Thread] = []
        self.is_closing = threading.Event()  # the main thread is through: the others may end
        self.has_failed = threading.Event()  # one of the others

    @property
    def must_end(self) -> bool:
        """A signal or a command asked for the end, or a thread failed."""
        return self._rq.stop_was_requested or self.has_failed.is_set()

    def begin(self, loops: Mapping[str, Callable[[], None]]) -> None:
        """Run each in a thread of its name; all are to end once `is_closing` is set."""
        for name, loop in loops.items():
            thread = threading.Thread(target=self._guard, args=(name, loop), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def end(self, within_s: float) -> None:
        """Let the threads end; one that does not, in so long, ends with the process."""
        self.is_closing.set()
        for thread in self._threads:
            thread.join(within_s)

    def _guard(self, name: str, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:  # noqa: BLE001 - nobody else would learn of it
            log_error(f"the {name} failed; the worker ends", error)
            self.has_failed.set()
