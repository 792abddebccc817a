"""A job's events as the service streams them, and how a reader keeps hold of the stream."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from contract.result import Status
from seemly.errors import Busy, TimedOut, Unreachable
from seemly.exchange import MAX_PAUSE_S, backoff_s

MAX_FRUITLESS_CONNECTIONS = 5
READ_TIMEOUT_S = 30.0  # the service sends a ping every 15 s


@dataclass(frozen=True)
class Event:
    """Type and data: snapshot (the job), queued, started, progress (index, step, steps), finished (status)."""

    type: str
    data: dict[str, Any]
    id: str | None = None

    @property
    def is_last(self) -> bool:
        """Whether the job is over with it."""
        return self.type == "finished" or (self.type == "snapshot" and Status(self.data["status"]).is_terminal)


@dataclass
class EventReader:
    """Server-sent events, line by line (WHATWG HTML, section 9.2.6)."""

    last_id: str | None = None
    _type: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, line: str) -> Event | None:
        """The event that this line completes, if it does."""
        line = line.rstrip("\r\n")
        if not line:
            kind, text = self._type or "message", "\n".join(self._data)
            self._type, self._data = "", []
            return Event(kind, json.loads(text), self.last_id) if text else None
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            self._type = value
        elif name == "data":
            self._data.append(value)
        elif name == "id" and "\x00" not in value:
            self.last_id = value
        return None  # a comment, as pings are, has an empty name


class Subscription:
    """One job's stream over as many connections as it takes, for `timeout_s` at most."""

    def __init__(self, build_request: Callable[..., httpx.Request], job_id: str, timeout_s: float | None) -> None:
        self._build = build_request
        self._job_id = job_id
        self._reader = EventReader()
        self._fruitless = 0
        self._ends = time.monotonic() + (float("inf") if timeout_s is None else timeout_s)

    def time_left_s(self) -> float:
        """How much longer the job is followed.

        Raises:
            TimedOut: no longer.
        """
        left_s = self._ends - time.monotonic()
        if left_s <= 0:
            raise TimedOut(f"job {self._job_id} did not finish in time; it goes on and can be waited for again")
        return left_s

    def request(self) -> httpx.Request:
        """The request of the next connection; it resumes after the last event that was read.

        Raises:
            TimedOut: there is no time for one.
        """
        last_id = self._reader.last_id
        self._reader = EventReader(last_id)
        headers = {"accept": "text/event-stream"} | ({"last-event-id": last_id} if last_id else {})
        timeout = httpx.Timeout(10.0, read=min(READ_TIMEOUT_S, self.time_left_s()))
        return self._build("GET", f"/jobs/{self._job_id}/events", headers=headers, timeout=timeout)

    def feed(self, line: str) -> Event | None:
        """The event that this line completes, if it does."""
        event = self._reader.feed(line)
        if event is not None:
            self._fruitless = 0
        return event

    def pause_s(self, error: Exception | None) -> float:
        """How long to wait before connecting again: as long as the service asks, where it does.

        Raises:
            Busy: it asks for longer than anyone waits, or too often in a row.
            Unreachable: after too many connections in a row without any event.
            TimedOut: there is no time for it.
        """
        self._fruitless += 1
        is_over = self._fruitless > MAX_FRUITLESS_CONNECTIONS
        asked_s = None
        if isinstance(error, Busy):
            asked_s = error.retry_after_s
            if is_over or (asked_s or 0) > MAX_PAUSE_S:
                raise error
        if is_over:
            raise Unreachable(
                f"the stream of events broke {self._fruitless} times in a row ({error or 'closed early'})"
            )
        return min(asked_s or backoff_s(self._fruitless - 1), self.time_left_s())
