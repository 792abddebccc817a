"""What became of a job: its state, its events, its pictures, its end."""

import hashlib
import logging
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from pydantic import AwareDatetime, BeforeValidator, Field
from redis.exceptions import RedisError
from sse_starlette import EventSourceResponse, ServerSentEvent

from contract.job import picture_key
from contract.listing import JobPage
from contract.request import OutputFormat
from contract.result import JobView, Picture, Status
from contract.store import explained
from contract.strict import Strict
from contract.verdict import Verdict
from service.authentication import Generating, Reading
from service.events import START, event_schema
from service.gateway import Gateway, Here
from service.jobs import JobRecord, finished_event
from service.links import LONGEST_S
from service.listing import Place, Wanted
from service.problems import (
    AlreadyFinished,
    BadRequest,
    InvalidLink,
    JobNotFound,
    LinkExpired,
    PictureNotFound,
    PictureNotReady,
    PictureWithheld,
    ResultExpired,
    StoreAway,
    documented,
)

log = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", tags=["jobs"])

PING_S = 15
EVENTS = ("snapshot", "queued", "started", "progress", "finished")
_STREAM_ID = re.compile(r"\d{1,15}-\d{1,15}")
_ASKED_TO_STOP: dict[int | str, dict[str, Any]] = {
    202: {"model": JobView, "description": "It runs; its worker was asked to stop."}
}
MEDIA_TYPES = {fmt: f"image/{fmt.value}" for fmt in OutputFormat}

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.IGNORECASE)


def _written_out(moment: object) -> object:
    """Refuse what pydantic would take for seconds since 1970."""
    if not (isinstance(moment, str) and _RFC_3339.fullmatch(moment)):
        raise ValueError("must be a time with its offset, as in 2026-01-31T12:00:00Z")
    return moment


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
JobId = Annotated[
    str, Path(description="As returned by `POST /generate`.", examples=["7f9c24e5b3f14c0c8a5b0c7d5f0e6a11"])
]

LinksFor = Annotated[
    int | None,
    Query(
        ge=1,
        le=LONGEST_S,
        description="Seconds. Every passed picture then has a `signed_url` that needs no key for so long.",
    ),
]


class WantedJobs(Strict):
    """Which jobs are listed."""

    status: list[Status] = Field([], max_length=len(Status), description="Any of these; none: all.")
    model: str | None = Field(None, min_length=1, max_length=200)
    since: Moment | None = Field(None, description="Accepted then or later.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the page before.")


@router.get("", operation_id="list_jobs", summary="Your jobs, newest first")
async def list_jobs(caller: Generating, gateway: Here, query: Annotated[WantedJobs, Query()]) -> JobPage:
    """The tenant's jobs whose records are still kept. A page may hold fewer than `limit` and still have a next one."""
    wanted = Wanted(frozenset(query.status), query.model, query.since)
    after = Place.from_cursor(query.cursor) if query.cursor is not None else None
    return await gateway.listing.page(caller.tenant, wanted, query.limit, after)


@router.get(
    "/{job_id}",
    operation_id="get_job",
    summary="A job's state and result",
    response_model=JobView,
    responses=documented(JobNotFound),
)
async def get_job(
    job_id: JobId, caller: Generating, request: Request, gateway: Here, links_for_s: LinksFor = None
) -> Response:
    """The job as it stands. `partial` and `blocked` are finished jobs with pictures withheld, not errors."""
    view = (await gateway.jobs.read(job_id, caller.tenant)).view
    if links_for_s is not None:
        view = await gateway.links.signed(view, caller.tenant, str(request.base_url), links_for_s)
    return Response(view.model_dump_json(), media_type="application/json")


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Cancel a job",
    response_model=JobView,
    responses={**_ASKED_TO_STOP, **documented(JobNotFound, AlreadyFinished)},
)
@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=JobView,
    responses={**_ASKED_TO_STOP, **documented(JobNotFound, AlreadyFinished)},
)
async def cancel_job(job_id: JobId, caller: Generating, gateway: Here) -> Response:
    """End a waiting job, or ask the worker of a running one to stop. A finished job gets 409."""
    record = await gateway.jobs.cancel(job_id, caller.tenant)
    return _told(record, 200 if record.status.is_terminal else 202)


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    summary="A job's events, as they happen",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Server-sent events: `snapshot` (the job), then `queued` (position, eta_s: seconds until it "
            "should be finished), `started` (attempt), `progress` (step, steps: over all pictures; one that is made "
            "again adds to both) and `finished` (status), which is the last. Ids of events can be resumed from.",
            "content": {"text/event-stream": {"schema": event_schema(*EVENTS)}},
        },
        204: {"description": "The last event was already seen: do not reconnect."},
        **documented(BadRequest, JobNotFound),
    },
)
async def follow_job(
    job_id: JobId,
    caller: Generating,
    gateway: Here,
    last_event_id: Annotated[str | None, Header(description="Resume after this event.")] = None,
) -> Response:
    """Follow a job until it is finished. Reconnecting with `Last-Event-ID` repeats nothing but the snapshot."""
    if last_event_id and not _STREAM_ID.fullmatch(last_event_id):
        raise BadRequest("Last-Event-ID must be the id of an event of this stream.")
    record = await gateway.jobs.read(job_id, caller.tenant)
    if last_event_id and record.status.is_terminal and not await gateway.events.past(job_id, last_event_id):
        return Response(status_code=204)
    return EventSourceResponse(_events(gateway, record, last_event_id or START), ping=PING_S)


@router.get(
    "/{job_id}/images/{index}",
    operation_id="get_picture",
    summary="A picture's bytes",
    response_class=Response,
    responses={
        200: {
            "description": "The picture; only one that passed has bytes to be read.",
            "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in MEDIA_TYPES.values()},
            "headers": {"ETag": {"description": "The bytes' SHA-256.", "schema": {"type": "string"}}},
        },
        304: {"description": "As the caller has it."},
        **documented(
            *(JobNotFound, PictureNotFound, PictureNotReady, PictureWithheld),
            *(InvalidLink, LinkExpired, StoreAway),
        ),
    },
)
async def get_picture(
    job_id: JobId, index: Annotated[int, Path(ge=0, le=999)], tenant: Reading, request: Request, gateway: Here
) -> Response:
    """The bytes of a passed picture, and of no other; with a key, or by a `signed_url`."""
    record = await gateway.jobs.read(job_id, tenant)
    picture = next((picture for picture in record.pictures if picture.index == index), None)
    if picture is None:
        if not record.status.is_terminal and index < len(record.job.seeds):
            raise PictureNotReady(f"The job is {record.status.value}; its pictures can be read once it is finished.")
        raise PictureNotFound("The job has no such picture.")
    if picture.verdict is not Verdict.PASSED:
        why = " ".join(picture.reasons) or (picture.error.message if picture.error else "")
        raise PictureWithheld(f"The picture is withheld; its verdict is {picture.verdict.value}. {why}".strip())
    headers = {
        "ETag": f'"{picture.sha256}"',
        "Cache-Control": "private",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    if headers["ETag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = await stored(gateway, record, picture)
    return Response(content, headers=headers, media_type=MEDIA_TYPES[record.job.output_format])


def _told(record: JobRecord, status: int = 200) -> Response:
    return Response(record.view.model_dump_json(), status, media_type="application/json")


async def stored(gateway: Gateway, record: JobRecord, picture: Picture) -> bytes:
    """The bytes of a picture that passed.

    Raises:
        PictureNotFound: when they are gone, or are not those that were judged.
        StoreAway: when the store does not answer.
    """
    job = record.job
    key = picture_key(job.id, job.tenant, record.attempt, picture.index, job.output_format)
    content = await bytes_at(gateway.withheld if picture.kept else gateway.store, key)
    if hashlib.sha256(content).hexdigest() != picture.sha256:
        log.error("the stored bytes of picture %d of job %s are not those that were judged", picture.index, job.id)
        raise PictureNotFound("The picture's bytes are not those that were judged.")
    return content


async def bytes_at(store: ObjectStore, key: str) -> bytes:
    """What lies in a store.

    Raises:
        PictureNotFound: nothing does.
        StoreAway: when the store does not answer.
    """
    try:
        return bytes(await (await store.get_async(key)).bytes_async())
    except FileNotFoundError:
        raise PictureNotFound("The picture's bytes are no longer kept.") from None
    except (BaseError, OSError) as error:
        log.warning("the store failed: %s", explained(error))
        raise StoreAway from None


async def _events(gateway: Gateway, record: JobRecord, after: str) -> AsyncIterator[ServerSentEvent]:
    """Snapshot, then events until the last. Ends early when Redis is lost or the record goes: the client reconnects."""
    job_id = record.job.id
    try:
        async with gateway.events.follow(job_id, after) as subscription:
            record = await gateway.jobs.read(job_id, record.job.tenant)
            yield ServerSentEvent(event="snapshot", data=record.view.model_dump_json())
            while True:
                event = await subscription.next_event(_patience_s(record))
                if event is not None:
                    yield ServerSentEvent(id=event.id, event=event.type, data=event.data)
                    if event.type == "finished":
                        return
                elif record.status.is_terminal:
                    yield ServerSentEvent(event="finished", data=finished_event(record))
                    return
                else:
                    record = await gateway.jobs.read(job_id, record.job.tenant)
    except (RedisError, JobNotFound, ResultExpired):
        return


def _patience_s(record: JobRecord) -> float:
    """How long to wait for an event before the record itself is read again."""
    if record.status.is_terminal:
        return 0.05  # what is there already comes at once
    deadline = record.job.deadline_at
    if deadline is None:
        return PING_S
    return min(PING_S, max(0.05, (deadline - datetime.now(UTC)).total_seconds()))
