"""A job's pictures on one sheet, with their verdicts and scores."""

from fastapi import APIRouter, Request, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from contract.job import Job
from contract.verdict import Verdict
from service.authentication import Generating
from service.gateway import Here
from service.problems import JobNotFound, PictureNotFound, PictureNotReady, StoreAway
from service.routes.drawn import answers_of_a_drawing, headers_of, unchanged
from service.routes.jobs import JobId, stored
from service.sheet import SheetRow, png_of_sheet, tile_of

router = APIRouter(prefix="/jobs", tags=["jobs"])


@router.get(
    "/{job_id}/contact-sheet.png",
    operation_id="get_contact_sheet",
    summary="A job's pictures on one sheet",
    response_class=Response,
    responses=answers_of_a_drawing(
        "Every picture, small, with its verdict and the scores nearest to their thresholds; of a "
        "compare, with its plan and its distance from the first. A withheld picture is an empty tile that says so.",
        JobNotFound,
        PictureNotFound,
        PictureNotReady,
        StoreAway,
    ),
)
async def get_contact_sheet(job_id: JobId, caller: Generating, request: Request, gateway: Here) -> Response:
    """Drawn from the stored pictures that passed."""
    record = await gateway.jobs.read(job_id, caller.tenant)
    view = record.seen_by(caller).view
    if not view.status.is_terminal:
        raise PictureNotReady(f"The job is {view.status.value}; its contact sheet can be read once it is finished.")
    if not view.images:
        raise PictureNotFound("The job has no pictures.")
    headers = headers_of(view)
    if (answer := unchanged(request, headers)) is not None:
        return answer
    async with gateway.sheets:
        tiles = {}  # one picture at a time: the files together could be large
        for picture in view.images:
            if picture.verdict is Verdict.PASSED:
                tiles[picture.index] = await _tile(await stored(gateway, record, picture))
        row = SheetRow(_heading(record.job), view, tiles)
        content = await run_in_threadpool(png_of_sheet, f'"{record.job.prompt}", model {record.job.model}', [row])
    return Response(content, headers=headers, media_type="image/png")


async def _tile(file: bytes) -> Image.Image:
    try:
        return await run_in_threadpool(tile_of, file)
    except OSError:  # Pillow's own errors are among them
        raise PictureNotFound("The picture's bytes cannot be read as a picture.") from None


def _heading(job: Job) -> str:
    what = f"{len(job.compared)} plans" if job.compared else f"safety {' + '.join(job.plan.methods) or 'none'}"
    return f"{what}, seed {job.seeds[0]}, {job.steps} steps, {job.scheduler.value}, guidance {job.guidance_scale:g}"
