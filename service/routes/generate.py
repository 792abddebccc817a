"""`POST /generate`: a request in, a job out."""

import asyncio
import email.message
import logging
import math
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Request, Response
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from contract.compare import CompareRequest
from contract.job import Job
from contract.logs import about
from contract.request import GenerateRequest
from contract.result import JobView, Status
from service.at_rest import PURPOSE
from service.audit.texts import entries_of
from service.authentication import Generating
from service.callers import Caller
from service.events import EventStreams
from service.gateway import Gateway, Here
from service.idempotency import idempotency_key
from service.jobs import JobRecord
from service.problem_json import documented
from service.problems import (
    BadRequest,
    ForbiddenByPolicy,
    IdempotencyKeyReused,
    InvalidRequest,
    JobNotFound,
    NoModel,
    NotReady,
    NotReproducible,
    PolicyNotServed,
    QueueFull,
    Refusal,
    TooManyJobs,
    TooManyRefusals,
    TooManyWebhooks,
    TooMuchWork,
    UnsupportedMediaType,
)
from service.queue import Standing
from service.quotas import quota_headers
from service.refused_prompts import PromptRefused
from service.reproducing import again
from service.routes.jobs import JobId, LinksFor
from service.sender import Sender
from service.tenants import UNLIMITED

log = logging.getLogger(__name__)

router = APIRouter(tags=["pictures"])

End = Callable[[], Coroutine[Any, Any, object]]

MAX_WAIT_S = 60
JUST_AFTER_S = 0.02  # a timer that is early by a little must not look before the deadline
_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,9})\"?", re.IGNORECASE)

_EXAMPLES: dict[str, Any] = {
    "plain": {"summary": "A prompt and nothing else", "value": {"prompt": "a midnight harbour"}},
    "safe": {
        "summary": "Two methods at once",
        "value": {"prompt": "a crowded market", "safety": ["sld:strong", "filter"], "num_images": 2, "seed": 41},
    },
    "written_out": {
        "summary": "A plan written out",
        "value": {
            "prompt": "a quiet street",
            "safety": {
                "guidance": {"method": "sld", "preset": "strong"},
                "output": {
                    "concepts": [{"name": "weapon", "text": "a weapon", "threshold": 0.2, "action": "block"}],
                },
            },
        },
    },
}
HEADERS = {
    "Location": {"description": "The job's address.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to look.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}
_APPLIED = {"description": "The wait that was kept.", "schema": {"type": "string", "pattern": "^wait=[0-9]+$"}}
REFUSALS: tuple[type[Refusal], ...] = (
    *(BadRequest, ForbiddenByPolicy, PromptRefused, UnsupportedMediaType, InvalidRequest, IdempotencyKeyReused),
    *(TooManyJobs, TooMuchWork, TooManyRefusals, TooManyWebhooks, NoModel, PolicyNotServed, QueueFull, NotReady),
)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JobView,
        "description": "Finished within the preferred wait.",
        "headers": {"Location": HEADERS["Location"], "Preference-Applied": _APPLIED},
    },
    202: {"headers": HEADERS},
    **documented(*REFUSALS),
}


async def require_json(request: Request) -> None:
    """Refuse a body of another media type, which a web page could send to loopback without asking.

    Where no web page sends, `LoopbackOnly` has already taken curl's own type for JSON.
    """
    declared = email.message.Message()
    declared["content-type"] = request.headers.get("content-type", "")
    if declared.get_content_type() != "application/json":
        raise UnsupportedMediaType("Send the request as JSON, with Content-Type: application/json.")


async def seconds_to_wait(
    prefer: Annotated[
        str | None,
        Header(description=f"`wait=N`, N up to {MAX_WAIT_S} seconds: answer when the job is finished, if in time."),
    ] = None,
) -> int:
    """N of `Prefer: wait=N` (RFC 7240); 0 when no wait is preferred. Other preferences are not known here."""
    for preference in re.split("[,;]", prefer or ""):
        if not re.match(r"wait\b", preference.strip(), re.IGNORECASE):
            continue
        found = _WAIT.fullmatch(preference.strip())
        if found is None or int(found[1]) > MAX_WAIT_S:
            raise BadRequest(f"Prefer: wait=N takes whole seconds from 0 to {MAX_WAIT_S}.")
        return int(found[1])
    return 0


@dataclass(frozen=True)
class Preferred:
    """How a request for a job would like to be answered."""

    wait_s: int
    links_for_s: int | None


async def _preferred(wait_s: Annotated[int, Depends(seconds_to_wait)], links_for_s: LinksFor = None) -> Preferred:
    return Preferred(wait_s, links_for_s)


Preference = Annotated[Preferred, Depends(_preferred)]


@dataclass(frozen=True)
class Submission:
    """What comes with a request for pictures, beside its body."""

    caller: Caller
    idempotency_key: str | None
    request: Request
    gateway: Gateway

    async def answer(self, body: GenerateRequest | CompareRequest, preferred: Preferred) -> Response:
        """Accept a request as a job; answer with the job, once it is finished or the preferred wait is over."""
        job, finish_s = await self.accept(body)
        view = JobView(id=job.id, status=Status.QUEUED, created_at=job.created_at)
        headers = {"Location": f"/jobs/{job.id}"}
        if preferred.wait_s:
            try:
                view = (await self.awaited(job.id, preferred.wait_s, self.gone)).view
            except RedisError as error:  # the job is on record: an answer without its id would be sent again
                log.warning("job %s: Redis failed after it was accepted: %s", job.id, type(error).__name__)
            if view.status.is_terminal:
                if preferred.links_for_s is not None:
                    view = await self.signed(view, preferred.links_for_s)
                return _answer(view, 200, {**headers, "Preference-Applied": f"wait={preferred.wait_s}"})
        return _answer(view, 202, {**headers, "Retry-After": str(min(60, max(1, math.ceil(finish_s))))})

    async def sender(self) -> Sender:
        """On whose behalf, and under what."""
        state = self.request.scope["state"]
        in_force = await self.gateway.policies.in_force(self.caller.tenant)
        prompt_key = (await self.gateway.callers.pepper_or_new()).derived(PURPOSE)
        return Sender(
            self.caller.tenant,
            in_force,
            state.get("limits", UNLIMITED),
            self.idempotency_key,
            prompt_key,
            state["request_id"],
            state["span"],
            self.caller.sees_scores,
        )

    async def accept(self, body: GenerateRequest | CompareRequest) -> tuple[Standing, float]:
        """Accept a request as a job. The job, and in how many seconds it should be finished."""
        state, sender = self.request.scope["state"], await self.sender()
        limits = sender.limits
        try:
            job, finish_s = await run_in_threadpool(self.gateway.admission.admit, body, sender)
        except PromptRefused as refused:
            await self.remember(refused, sender)
            raise
        self.note(job)
        if job.unfinished is not None:
            told = state["headers"]
            for name, value in quota_headers(limits, job.unfinished).items():
                told[name] = ", ".join(filter(None, (told.get(name), value)))
        return job, finish_s

    async def remember(self, refused: PromptRefused, sender: Sender) -> None:
        """Count a refused prompt, and put it on record."""
        self.gateway.metrics.prompts_refused.labels(refused.field).inc()
        async with self.gateway.silence.noticed_in_turn():
            await self.gateway.audit.append(*entries_of(refused.texts, sender))

    def note(self, job: Standing) -> None:
        """Count a job that was accepted, and log its id under the request's."""
        if job.is_new:
            self.gateway.metrics.accepted.labels(job.model).inc()
            with about(job_id=job.id):
                log.info("job %s: accepted", job.id)

    async def awaited(self, job_id: str, wait_s: float, *ends: End) -> JobRecord:
        """The job as it is once it is finished, the time is over, one of `ends` came, or this process is to end."""
        jobs, tenant = self.gateway.jobs, self.caller.tenant
        record = (await jobs.read(job_id, tenant)).seen_by(self.caller)
        if record.status.is_terminal:
            return record
        await _first_of(partial(_finished, self.gateway.events, record.job, wait_s), self.gateway.leaving.wait, *ends)
        return (await jobs.read(job_id, tenant)).seen_by(self.caller)

    async def signed(self, view: JobView, for_s: int) -> JobView:
        """The job with addresses of its pictures that need no key for so long."""
        return await self.gateway.links.signed(view, self.caller.tenant, str(self.request.base_url), for_s)

    async def gone(self) -> None:
        """Return once the client has hung up."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass


async def _submission(
    caller: Generating, key: Annotated[str | None, Depends(idempotency_key)], request: Request, gateway: Here
) -> Submission:
    return Submission(caller, key, request, gateway)


Submitted = Annotated[Submission, Depends(_submission)]


@router.post(
    "/generate",
    operation_id="generate",
    summary="Make pictures",
    status_code=202,
    response_model=JobView,
    response_description="Accepted; the job waits or runs.",
    responses=ANSWERS,
    dependencies=[Depends(require_json)],
)
async def generate(
    body: Annotated[GenerateRequest, Body(openapi_examples=_EXAMPLES)],
    submission: Submitted,
    preferred: Preference,
) -> Response:
    """Accept a request as a job. The pictures are made later: follow the job's address or its events.

    Programs may leave out the content type as `curl -d` does; requests with an `Origin` must say `application/json`.
    """
    return await submission.answer(body, preferred)


@router.post(
    "/jobs/{job_id}/reproduce",
    operation_id="reproduce",
    summary="Make a job's pictures again, and measure the difference",
    tags=["jobs"],
    status_code=202,
    response_model=JobView,
    response_description="Accepted; the job waits or runs.",
    responses={
        202: {"headers": {"Location": HEADERS["Location"]}},
        **documented(
            *(BadRequest, ForbiddenByPolicy, PromptRefused, IdempotencyKeyReused, InvalidRequest, JobNotFound),
            *(NotReproducible, TooManyJobs, TooMuchWork, NoModel, PolicyNotServed, QueueFull, NotReady),
        ),
    },
)
async def reproduce(job_id: JobId, submission: Submitted) -> Response:
    """Run a finished job once more, as a job of its own: the same prompt, seeds and settings, under the same plan, made
    stricter where the policy of now demands it. Its `reproduction` states the difference in pixels of each picture.
    A picture whose block a person has overturned without seeing it is held for a person now.
    """
    record = await submission.gateway.jobs.read(job_id, submission.caller.tenant)
    sender, gateway = await submission.sender(), submission.gateway
    try:
        made = await run_in_threadpool(again, record, sender, gateway.catalogue)
    except PromptRefused as refused:
        await submission.remember(refused, sender)
        raise
    job, _ = await run_in_threadpool(gateway.intake.enqueue, made, sender, f"reproduce {record.job.id}")
    submission.note(job)
    view = JobView(id=job.id, status=Status.QUEUED, created_at=job.created_at)
    return _answer(view, 202, {"Location": f"/jobs/{job.id}"})


def _answer(view: JobView, status: int, headers: dict[str, str]) -> Response:
    return Response(view.model_dump_json(), status, headers, media_type="application/json")


async def _finished(events: EventStreams, job: Job, wait_s: float) -> None:
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


async def _first_of(*ways: End) -> None:
    """Await several things at once, until the first is there."""
    tasks = [asyncio.ensure_future(way()) for way in ways]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
