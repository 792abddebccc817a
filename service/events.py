"""Events of jobs, for any number of listeners at the price of one.

One task reads all watched streams of this process with a single blocking XREAD. It lives while anybody listens. A
stream of our own is read along with them: writing to it makes a read that is under way return, so that a new stream is
watched at once.
"""

import asyncio
import logging
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from contract import keys, record
from service.silence import Silence

log = logging.getLogger(__name__)

START = "0-0"
BLOCK_S = 5.0
READ_COUNT = 100
RETRY_S = 0.5


@dataclass(frozen=True)
class Event:
    """One entry of a job's stream; `data` is JSON."""

    id: str
    type: str
    data: str


def is_newer(event_id: str, than: str) -> bool:
    """Whether an entry came after another, by their ids `milliseconds-number`."""
    return _order(event_id) > _order(than)


def _order(event_id: str) -> tuple[int, int]:
    milliseconds, _, number = event_id.partition("-")
    return int(milliseconds), int(number)


def event_schema(*types: str) -> dict[str, Any]:
    """What OpenAPI says of one event of a stream."""
    text = {"type": "string"}
    properties = {"event": {"enum": list(types)}, "data": {**text, "contentMediaType": "application/json"}, "id": text}
    return {"type": "object", "title": "Event", "properties": properties, "required": ["event", "data"]}


@dataclass
class _Watched:
    cursor: str
    inboxes: set["asyncio.Queue[Event]"] = field(default_factory=set)


class Subscription:
    """One listener's view of one stream: what was there, then what comes, each entry once and in order."""

    def __init__(self, past: list[Event], inbox: "asyncio.Queue[Event]", after: str) -> None:
        self._past = deque(past)
        self._inbox = inbox
        self._last = after

    async def next_event(self, timeout_s: float) -> Event | None:
        """The next event, or None when none comes in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while True:
                    event = self._past.popleft() if self._past else await self._inbox.get()
                    if is_newer(event.id, self._last):
                        self._last = event.id
                        return event
        return None


class EventStreams:
    """The one reader of this process and those who listen to it."""

    def __init__(self, redis: "Redis", silence: Silence, redis_url: str, timeout_s: float) -> None:
        self._redis = redis
        self._silence = silence
        self._blocking = Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=BLOCK_S + timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
        )
        self._watched: dict[str, _Watched] = {}
        self._bell = f"{keys.PREFIX}bell:{uuid.uuid4().hex}"
        self._bell_cursor = START
        self._reader: asyncio.Task[None] | None = None

    def listeners(self) -> int:
        """How many listen at the moment."""
        return sum(len(watched.inboxes) for watched in self._watched.values())

    async def close(self) -> None:
        """Stop reading."""
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        await self._blocking.aclose()

    @asynccontextmanager
    async def follow(self, job_id: str, after: str = START) -> AsyncIterator[Subscription]:
        """Listen to a job's events from the one after the id `after`."""
        key = keys.events_key(job_id)
        inbox: asyncio.Queue[Event] = asyncio.Queue()
        is_new = key not in self._watched
        watched = self._watched.setdefault(key, _Watched(cursor=after))
        watched.inboxes.add(inbox)
        try:
            # Only after this listener is on the list, so that nothing falls between the past and what comes.
            past = await self.past(job_id, after)
            if is_new:
                await self._watch_now()
            yield Subscription(past, inbox, after)
        finally:
            watched.inboxes.discard(inbox)
            if not watched.inboxes and self._watched.get(key) is watched:
                del self._watched[key]

    async def past(self, job_id: str, after: str) -> list[Event]:
        """The events that are there already, from the one after the id `after`."""
        async with self._silence.noticed_in_turn():
            entries: Any = await self._redis.xrange(
                keys.events_key(job_id), min=f"({after}", count=2 * record.EVENTS_MAXLEN
            )
        return [_event(entry_id, fields) for entry_id, fields in entries]

    async def _watch_now(self) -> None:
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read(), name="event streams")
            return
        # A bell that cannot be rung (a full Redis) costs a delay of at most one blocking read.
        with suppress(RedisError):
            await self._ring()

    async def _ring(self) -> None:
        async with self._silence.noticed_in_turn(), self._redis.pipeline(transaction=False) as pipe:
            pipe.xadd(self._bell, {"type": "bell"}, maxlen=1, approximate=False)
            pipe.expire(self._bell, 60)
            await pipe.execute()

    async def _read(self) -> None:
        while self._watched:
            try:
                await self._read_once()
            except RedisError as error:
                log.warning("event streams: Redis failed: %s", type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def _read_once(self) -> None:
        cursors: dict[Any, Any] = {key: watched.cursor for key, watched in self._watched.items()}
        answer: Any = await self._blocking.xread(
            {**cursors, self._bell: self._bell_cursor},
            block=int(BLOCK_S * 1000),
            count=READ_COUNT,
        )
        for key, entries in answer or ():
            if key == self._bell:
                self._bell_cursor = entries[-1][0]
                continue
            watched = self._watched.get(key)
            if watched is None:
                continue
            # A stream that was left and taken up again meanwhile stands at its new listener's place.
            if watched.cursor == cursors[key]:
                watched.cursor = entries[-1][0]
            for inbox in watched.inboxes:
                for entry_id, fields in entries:
                    inbox.put_nowait(_event(entry_id, fields))


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    return Event(id=entry_id, type=fields.get("type", ""), data=fields.get("data", "{}"))
