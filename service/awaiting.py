"""Waiting for the end of a job."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeVar

from fastapi import Request

from contract.job import AnyJob
from service.events import EventStreams
from service.kept import KeptJobs, SomeRecord

Found = TypeVar("Found")
End = Callable[[], Coroutine[Any, Any, object]]

JUST_AFTER_S = 0.02  # a timer that is early by a little must not look before the deadline
LOOKED_EVERY_S = 1.0  # at the record itself, where no event tells


async def ended(
    kept: KeptJobs[SomeRecord], events: EventStreams, job: AnyJob, wait_s: float, *ends: End
) -> SomeRecord | None:
    """A job once it is over; None when one of `ends` comes first, or that is not within `wait_s` and a second of its
    making.

    Looking at one that waits past its deadline ends it.
    """
    return await first_of(partial(_over, kept, events, job, wait_s), *ends)


async def _over(kept: KeptJobs[SomeRecord], events: EventStreams, job: AnyJob, wait_s: float) -> SomeRecord | None:
    async with events.follow(job.id) as subscription:
        ends = job.created_at + timedelta(seconds=wait_s + 1)
        while datetime.now(UTC) < ends:
            record = await kept.read(job.id, job.tenant)
            if record.status.is_terminal:
                return record
            every_s = min(LOOKED_EVERY_S, wait_s)
            while (event := await subscription.next_event(every_s)) is not None and event.type != "finished":
                pass
    return None


async def finished(events: EventStreams, job: AnyJob, wait_s: float) -> None:
    """Return once the job is finished, when the time is over, or when the job's deadline has passed."""
    if job.deadline_at is not None:
        wait_s = min(wait_s, (job.deadline_at - datetime.now(UTC)).total_seconds() + JUST_AFTER_S)
    loop = asyncio.get_running_loop()
    ends = loop.time() + wait_s
    async with events.follow(job.id) as subscription:
        while (left_s := ends - loop.time()) > 0:
            event = await subscription.next_event(left_s)
            if event is not None and event.type == "finished":
                return


async def gone(request: Request) -> None:
    """Return once the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def first_of(way: Callable[[], Coroutine[Any, Any, Found]], *ends: End) -> Found | None:
    """What comes of `way`; None when one of `ends` is there before it."""
    wanted = asyncio.ensure_future(way())
    tasks: list[asyncio.Future[Any]] = [wanted, *(asyncio.ensure_future(end()) for end in ends)]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
        return wanted.result() if wanted in done else None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
