"""`POST /generate`: a request in, a job out. `POST /jobs/{id}/reproduce`: the same job once more."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Response

from contract.request import GenerateRequest
from contract.result import JobView, Status
from service.json_only import require_json
from service.preference import Preference
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
    TooManyJobs,
    TooMuchWork,
)
from service.refused_prompts import PromptRefused
from service.routes.jobs import JobId
from service.routes.submitted import ANSWERS, HEADERS, Submitted, answer
from service.routes.told import told

router = APIRouter(tags=["pictures"])

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
    return await answer(submission, body, preferred)


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
    job = await submission.accept_again(record)
    view = JobView(id=job.id, status=Status.QUEUED, created_at=job.created_at)
    return told(view, 202, {"Location": f"/jobs/{job.id}"})
