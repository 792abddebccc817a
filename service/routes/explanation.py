"""A job drawn, for those who would rather look than read."""

from fastapi import APIRouter, Request, Response

from service.authentication import Generating
from service.gateway import Here
from service.problems import DrawingBusy, JobNotFound, NothingToDraw, PictureNotReady
from service.routes.drawn import answers_of_a_drawing, headers_of, unchanged
from service.routes.jobs import JobId

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/explanation.png",
    operation_id="explain_job",
    summary="A job's scores, drawn",
    response_class=Response,
    responses=answers_of_a_drawing(
        "For every picture: its concepts' scores over the steps with the corrections made, the "
        "strength of the guidance's push, and its final scores against their thresholds; as much as is on record.",
        JobNotFound,
        PictureNotReady,
        NothingToDraw,
        DrawingBusy,
    ),
)
async def explain_job(job_id: JobId, caller: Generating, request: Request, gateway: Here) -> Response:
    """What was seen and done while a job's pictures were made, as one picture. It shows none of them."""
    record = await gateway.jobs.read(job_id, caller.tenant)
    if not record.status.is_terminal:
        raise PictureNotReady(f"The job is {record.status.value}; it can be explained once it is finished.")
    view = record.seen_by(caller).view
    headers = headers_of(view)
    if (answer := unchanged(request, headers)) is not None:
        return answer
    return Response(await gateway.drawings.png(view), headers=headers, media_type="image/png")
