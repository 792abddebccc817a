"""What the routes that make jobs for pictures have in common: how a job is handed in, and the answers to it."""

import logging
import math
from typing import Annotated, Any

from fastapi import Depends, Request, Response
from redis.exceptions import RedisError

from contract.compare import CompareRequest
from contract.request import GenerateRequest
from contract.result import JobView, Status
from service.authentication import Generating
from service.gateway import Here
from service.idempotency import IdempotencyKey
from service.preference import Preferred
from service.problem_json import documented
from service.problems import (
    BadRequest,
    ForbiddenByPolicy,
    IdempotencyKeyReused,
    InvalidRequest,
    NoModel,
    NotReady,
    PolicyNotServed,
    QueueFull,
    Refusal,
    TooManyJobs,
    TooManyRefusals,
    TooManyWebhooks,
    TooMuchWork,
    UnsupportedMediaType,
)
from service.refused_prompts import PromptRefused
from service.routes.told import told
from service.submission import Submission

log = logging.getLogger(__name__)

HEADERS = {
    "Location": {"description": "The job's address.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds after which to look.", "schema": {"type": "string", "pattern": "^[0-9]+$"}},
}
_APPLIED = {"description": "The wait that was kept.", "schema": {"type": "string", "pattern": "^wait=[0-9]+$"}}
OF_A_JOB: tuple[type[Refusal], ...] = (
    *(BadRequest, ForbiddenByPolicy, UnsupportedMediaType, InvalidRequest, IdempotencyKeyReused, TooManyJobs),
    *(TooMuchWork, TooManyRefusals, TooManyWebhooks, NoModel, PolicyNotServed, QueueFull, NotReady),
)
REFUSALS = (*OF_A_JOB, PromptRefused)
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "model": JobView,
        "description": "Finished within the preferred wait.",
        "headers": {"Location": HEADERS["Location"], "Preference-Applied": _APPLIED},
    },
    202: {"headers": HEADERS},
    **documented(*REFUSALS),
}


async def _submission(caller: Generating, key: IdempotencyKey, request: Request, gateway: Here) -> Submission:
    return Submission(caller, key, request, gateway)


Submitted = Annotated[Submission, Depends(_submission)]


async def answer(submission: Submission, body: GenerateRequest | CompareRequest, preferred: Preferred) -> Response:
    """Accept a request as a job; answer with the job, once it is finished or the preferred wait is over."""
    job, finish_s = await submission.accept(body)
    view = JobView(id=job.id, status=Status.QUEUED, created_at=job.created_at)
    headers = {"Location": f"/jobs/{job.id}"}
    if preferred.wait_s:
        try:
            view = (await submission.awaited(job.id, preferred.wait_s, submission.gone)).view
        except RedisError as error:  # the job is on record: an answer without its id would be sent again
            log.warning("job %s: Redis failed after it was accepted: %s", job.id, type(error).__name__)
        if view.status.is_terminal:
            if preferred.links_for_s is not None:
                view = await submission.signed(view, preferred.links_for_s)
            return told(view, 200, {**headers, "Preference-Applied": f"wait={preferred.wait_s}"})
    return told(view, 202, {**headers, "Retry-After": str(min(60, max(1, math.ceil(finish_s))))})
