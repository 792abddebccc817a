"""Whether the store of pictures answers, asked no more often than needed."""

import asyncio
import time

from obstore.store import ObjectStore

from contract.store import StoreUnusable, try_reading
from service.problems import NotReady

FRESH_S = 10.0
PATIENCE_S = 3.0
RETRY_AFTER_S = 10.0


class StoreCheck:
    """Tries one store for readiness. What was found holds for a while; requests at the same time share one trial."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._trial: asyncio.Task[str | None] | None = None
        self._begun_at = 0.0

    async def passed(self) -> None:
        """Return when the store can be read.

        Raises:
            NotReady: it cannot; the text says what to do.
        """
        if self._trial is None or (self._trial.done() and time.monotonic() - self._begun_at > FRESH_S):
            self._begun_at = time.monotonic()
            self._trial = asyncio.create_task(self._why_not(), name="store check")
        try:
            why_not = await asyncio.wait_for(asyncio.shield(self._trial), PATIENCE_S)
        except TimeoutError:
            why_not = f"it has not answered for {PATIENCE_S:.0f} s; check that it runs and can be reached from here"
        if why_not is not None:
            raise NotReady(f"The store of pictures (SEEMLY_STORE_URL): {why_not}.", RETRY_AFTER_S)

    async def _why_not(self) -> str | None:
        try:
            await try_reading(self._store)
        except StoreUnusable as error:
            return str(error)
        return None
