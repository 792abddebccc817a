"""The engine's thread: step after step, and what comes out of each passed on."""

import threading
import time
from dataclasses import dataclass, field

from workers.delivery import Delivery, PictureEngine
from workers.engine.picture import Outcome, Progress
from workers.progress import ProgressBoard
from workers.slots import Slots


@dataclass
class Driver:
    """Steps the engine until the worker closes."""

    engine: PictureEngine
    slots: Slots
    delivery: Delivery
    progress: ProgressBoard
    is_closing: threading.Event
    step_began: float | None = field(default=None, init=False)  # monotonic; None between two steps
    turned_at: float = field(default_factory=time.monotonic, init=False)  # when the loop last began anew

    def run(self) -> None:
        """Step while there is work, wait while there is none."""
        while not self.is_closing.is_set():
            if not self._turn() and self.engine.is_idle:
                self.engine.wait_for_work(timeout_s=0.2)

    def _turn(self) -> bool:
        """One step. Whether anything came of it; of that nothing is kept here, so that a picture that is done frees its
        weights."""
        self.step_began = self.turned_at = time.monotonic()
        events = self.engine.step()
        self.step_began = None
        for event in events:
            self._pass_on(event)
        return bool(events)

    def _pass_on(self, event: Progress | Outcome) -> None:
        """Pictures judged to their job, which may want one made again."""
        if isinstance(event, Progress):
            self.progress.note(event)
            return
        in_flight = self.slots.held.get(event.spec.job_id)
        again = self.delivery.collect(in_flight, event) if in_flight is not None else None
        if again is not None:
            self.progress.again(again)
            self.engine.submit(again)
