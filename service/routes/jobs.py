"""What became of a job: its state, its events, its pictures, its end."""

import hashlib
import logging
import re
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from obstore.exceptions import BaseError
from obstore.store import ObjectStore
from pydantic import AwareDatetime, BeforeValidator, Field
from sse_starlette import EventSourceResponse

from contract.job import picture_key
from contract.listing import JobPage, JobSummary
from contract.request import OutputFormat
from contract.result import JobView, Picture, Status
from contract.store import explained
from contract.strict import Strict
from contract.verdict import Verdict
from service.authentication import Generating, Reading
from service.following import LastEventId, answers_of_a_stream, followed
from service.gateway import Gateway, Here
from service.jobs import JobRecord
from service.listing import Place, Wanted
from service.preference import LinksFor
from service.problem_json import documented
from service.problems import (
    InvalidLink,
    JobNotFound,
    LinkExpired,
    PictureNotFound,
    PictureNotReady,
    PictureWithheld,
    StoreAway,
)
from service.routes.told import answers_of_a_cancel, canceled, told

log = logging.getLogger(__name__)

router = APIRouter(prefix="/jobs", tags=["jobs"])

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


class WantedJobs(Strict):
    """Which jobs are listed."""

    status: list[Status] = Field([], max_length=len(Status), description="Any of these; none: all.")
    model: str | None = Field(None, min_length=1, max_length=200)
    since: Moment | None = Field(None, description="Accepted then or later.")
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=200, description="`next_cursor` of the page before.")

    @property
    def wanted(self) -> Wanted:
        """The same, as a listing takes it."""
        return Wanted(frozenset(self.status), self.model, self.since)

    @property
    def after(self) -> Place | None:
        """The job after which the page begins."""
        return Place.from_cursor(self.cursor)


@router.get("", operation_id="list_jobs", summary="Your jobs, newest first")
async def list_jobs(caller: Generating, gateway: Here, query: Annotated[WantedJobs, Query()]) -> JobPage:
    """The tenant's jobs whose records are still kept. A page may hold fewer than `limit` and still have a next one."""
    records, cursor = await gateway.listing.page(caller.tenant, query.wanted, query.limit, query.after)
    return JobPage(jobs=tuple(map(_summary, records)), next_cursor=cursor)


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
    view = (await gateway.jobs.read(job_id, caller.tenant)).seen_by(caller).view
    if links_for_s is not None:
        view = await gateway.links.signed(view, caller.tenant, str(request.base_url), links_for_s)
    return told(view)


@router.delete(
    "/{job_id}",
    operation_id="delete_job",
    summary="Cancel a job",
    response_model=JobView,
    responses=answers_of_a_cancel(JobView),
)
@router.post(
    "/{job_id}/cancel",
    operation_id="cancel_job",
    summary="Cancel a job",
    response_model=JobView,
    responses=answers_of_a_cancel(JobView),
)
async def cancel_job(job_id: JobId, caller: Generating, gateway: Here) -> Response:
    """End a waiting job, or ask the worker of a running one to stop. A finished job gets 409."""
    return await canceled(gateway.jobs, job_id, caller.tenant)


@router.get(
    "/{job_id}/events",
    operation_id="follow_job",
    summary="A job's events, as they happen",
    response_class=EventSourceResponse,
    responses=answers_of_a_stream(
        "`snapshot` (the job), then `queued` (position, eta_s: seconds until it should be finished), `started`"
        " (attempt), `progress` (step, steps: over all pictures; one that is made again adds to both) and `finished`"
        " (status)"
    ),
)
async def follow_job(job_id: JobId, caller: Generating, gateway: Here, last_event_id: LastEventId = None) -> Response:
    """Follow a job until it is finished. Reconnecting with `Last-Event-ID` repeats nothing but the snapshot."""
    return await followed(gateway.jobs, gateway.events, job_id, caller.tenant, last_event_id)


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


def _summary(record: JobRecord) -> JobSummary:
    view = record.view
    return JobSummary(
        id=view.id,
        url=f"/jobs/{view.id}",
        status=view.status,
        model=record.job.model,
        pictures=len(record.job.seeds),
        created_at=view.created_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
    )


async def stored(gateway: Gateway, record: JobRecord, picture: Picture) -> bytes:
    """The bytes of a picture that passed.

    Raises:
        PictureNotFound: when they are gone, or are not those that were judged, or were sent here.
        StoreAway: when the store does not answer.
    """
    job = record.job
    if job.uploads:
        raise PictureNotFound("Pictures that were sent here are not handed out again.")
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
