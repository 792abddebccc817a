"""Jobs of any kind as answers."""

from typing import Any

from fastapi import Response
from pydantic import BaseModel

from service.kept import KeptJobs, SomeRecord
from service.problem_json import documented
from service.problems import AlreadyFinished, JobNotFound


def told(view: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A job as it stands, written out once."""
    return Response(view.model_dump_json(), status, headers, media_type="application/json")


async def canceled(kept: KeptJobs[SomeRecord], job_id: str, tenant: str) -> Response:
    """A job that is ended at once where it waits; of a running one the worker is asked to stop.

    Raises:
        JobNotFound: also for another tenant's.
        AlreadyFinished: when there is nothing left to cancel.
    """
    record = await kept.cancel(job_id, tenant)
    return told(record.view, 200 if record.status.is_terminal else 202)


def answers_of_a_cancel(view: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that cancels a job."""
    asked_to_stop = {"model": view, "description": "It runs; its worker was asked to stop."}
    return {202: asked_to_stop, **documented(JobNotFound, AlreadyFinished)}
