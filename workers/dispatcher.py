"""The dispatcher, which is the main thread: a free slot → pop → lease → START → whoever does such jobs.

A job begun for the last time runs alone: should it kill its worker again, it takes no neighbour with it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from contract import keys
from contract.job import MAX_ATTEMPTS
from workers.ending import Ending
from workers.lifecycle import RqWorker, Ticket
from workers.records import JobRecords, Started
from workers.shift import Shift
from workers.slots import Slots
from workers.taking import Taking, unknown_function

Handler: TypeAlias = Callable[[Ticket, Started], bool]  # whether the job holds its slot from now on


@dataclass(frozen=True)
class Dispatcher:
    """Takes jobs while there is room for them."""

    handlers: Mapping[str, Handler]  # by the function that a job names
    taking: Taking
    ending: Ending
    records: JobRecords
    rq: RqWorker
    slots: Slots
    shift: Shift

    def run(self) -> None:
        """Until the worker must end. Without a free slot, only what needs none is taken: a variant is retired, however
        busy the worker is."""
        while not self.shift.must_end:
            if not self.taking.is_open:
                time.sleep(0.05)
                continue
            has_slot, is_taken = self.slots.reserve(timeout_s=0.2), False
            try:
                is_taken = self.taking.one(self._begin, only=None if has_slot else keys.MOVE)
            finally:
                if has_slot and not is_taken:
                    self.slots.give_back()

    def _begin(self, ticket: Ticket) -> bool:
        """Start an attempt and hand it on. Whether it holds its slot from now on."""
        [standing] = self.records.standings([ticket.job_id])
        is_last_attempt = standing.attempt >= MAX_ATTEMPTS - 1
        self.rq.begin(ticket)
        if not self.taking.is_fit():  # since it was asked for
            self.rq.retry(ticket, "the worker may take none now")
            return False
        if is_last_attempt and not self._wait_until_alone():
            self.rq.retry(ticket, "the worker stops")
            return False
        if (started := self.taking.start(ticket)) is None:
            return False
        handler = self.handlers.get(ticket.function or "")
        if handler is None:
            self.ending.end(ticket, started.attempt, unknown_function())
            return False
        is_taken = handler(ticket, started)
        if is_taken and is_last_attempt:
            self._wait_until_alone()
        return is_taken

    def _wait_until_alone(self) -> bool:
        """Wait until nothing is in flight; False when the worker is to end first."""
        return self.slots.wait_until_empty(lambda: self.shift.must_end)
