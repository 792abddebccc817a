"""Drawing off the event loop, one job at a time, with few waiting."""

import asyncio

from starlette.concurrency import run_in_threadpool

from contract.result import JobView
from service.explanation.panels import Explanation
from service.problems import DrawingBusy, NothingToDraw

MOST_WAITING = 8
RETRY_AFTER_S = 5


class Drawings:
    """Draws explanations. matplotlib is not made for several threads at once, and one core is enough for it."""

    def __init__(self) -> None:
        self._turn = asyncio.Semaphore(1)
        self._wanted = 0

    async def png(self, job: JobView) -> bytes:
        """A finished job's explanation.

        Raises:
            NothingToDraw: the job ended before any picture was scored.
            DrawingBusy: too many wait for theirs.
        """
        explanation = Explanation.of(job)
        if explanation is None:
            why = f" {job.error.message}" if job.error else ""
            raise NothingToDraw(f"The job ended as {job.status.value} before any picture of it was scored.{why}")
        if self._wanted > MOST_WAITING:
            raise DrawingBusy("Many explanations are being drawn; try again soon.", RETRY_AFTER_S)
        self._wanted += 1
        try:
            async with self._turn:
                return await run_in_threadpool(_draw, explanation)
        finally:
            self._wanted -= 1


def _draw(explanation: Explanation) -> bytes:
    from service.explanation.figure import png

    return png(explanation)
