"""Redis saying nothing: found out by one caller, respected by all for a moment."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from redis.exceptions import TimeoutError as RedisTimeoutError

FAIL_FAST_S = 0.5
CALLS_AT_ONCE = 16  # of the event loop; more would only wait for each other, on the clock of their timeouts


class Silence:
    """Around every call of Redis. Without it, callers beyond the first would sit out a timeout each, in turn."""

    def __init__(self) -> None:
        self._lasts_until = 0.0
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)

    @contextmanager
    def noticed(self) -> Iterator[None]:
        """A call made from a thread.

        Raises:
            redis.exceptions.TimeoutError: at once, while the silence lasts.
        """
        if time.monotonic() < self._lasts_until:
            raise RedisTimeoutError("Redis was silent a moment ago")
        try:
            yield
        except RedisTimeoutError:
            self._lasts_until = time.monotonic() + FAIL_FAST_S
            raise

    @asynccontextmanager
    async def noticed_in_turn(self) -> AsyncIterator[None]:
        """A call made from the event loop, one of a bounded number at a time."""
        async with self._turns:
            with self.noticed():
                yield
