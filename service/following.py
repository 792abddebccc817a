"""A job's events as server-sent ones, whatever kind of job it is."""

import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Header, Response
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from service.events import START, EventStreams, event_schema
from service.kept import KeptJobs, KeptRecord, SomeRecord
from service.problem_json import documented
from service.problems import BadRequest, JobNotFound, ResultExpired

PING_S = 15
EVENTS = ("snapshot", "queued", "started", "progress", "finished")
_STREAM_ID = re.compile(r"\d{1,15}-\d{1,15}")

LastEventId = Annotated[str | None, Header(description="Resume after this event.")]


def answers_of_a_stream(description: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that follows a job."""
    told = f"Server-sent events: {description}, which is the last. Ids of events can be resumed from."
    return {
        200: {"description": told, "content": {"text/event-stream": {"schema": event_schema(*EVENTS)}}},
        204: {"description": "The last event was already seen: do not reconnect."},
        **documented(BadRequest, JobNotFound),
    }


async def followed(
    kept: KeptJobs[SomeRecord], events: EventStreams, job_id: str, tenant: str, last_event_id: str | None
) -> Response:
    """The answer that tells a job's events from the one after `last_event_id` on.

    Raises:
        BadRequest: the id is no event's.
        JobNotFound: there is no such job of this tenant.
    """
    if last_event_id and not _STREAM_ID.fullmatch(last_event_id):
        raise BadRequest("Last-Event-ID must be the id of an event of this stream.")
    record = await kept.read(job_id, tenant)
    if last_event_id and record.status.is_terminal and not await events.past(job_id, last_event_id):
        return Response(status_code=204)
    return EventSourceResponse(_events(kept, events, record, last_event_id or START), ping=PING_S)


async def _events(
    kept: KeptJobs[SomeRecord], events: EventStreams, record: SomeRecord, after: str
) -> AsyncIterator[ServerSentEvent]:
    """Snapshot, then events until the last. Ends early when Redis is lost or the record goes: the client reconnects."""
    job_id, tenant = record.job.id, record.job.tenant
    try:
        async with events.follow(job_id, after) as subscription:
            record = await kept.read(job_id, tenant)
            yield ServerSentEvent(event="snapshot", data=record.view.model_dump_json())
            while True:
                event = await subscription.next_event(_patience_s(record))
                if event is not None:
                    yield ServerSentEvent(id=event.id, event=event.type, data=event.data)
                    if event.type == "finished":
                        return
                elif record.status.is_terminal:  # its own last event was trimmed away
                    yield ServerSentEvent(event="finished", data=json.dumps({"status": record.status.value}))
                    return
                else:
                    record = await kept.read(job_id, tenant)
    except (RedisError, JobNotFound, ResultExpired):
        return


def _patience_s(record: KeptRecord[Any, Any]) -> float:
    """How long to wait for an event before the record itself is read again."""
    if record.status.is_terminal:
        return 0.05  # what is there already comes at once
    deadline: datetime | None = record.job.deadline_at
    if deadline is None:
        return PING_S
    return min(PING_S, max(0.05, (deadline - datetime.now(UTC)).total_seconds()))
