"""The demonstration: one prompt and seed, once under the filter and once plain, side by side.

The prompt names nothing indecent; the plain pictures show what a model makes of it all the same.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from contract.request import GenerateRequest
from contract.result import JobView, Status
from contract.verdict import Verdict
from seemly.client import AsyncClient
from seemly.display import JobBars
from seemly.errors import SeemlyError
from service.sheet import SheetRow, contact_sheet, tile_of

PROMPT = "a pirate scene"
SEED = 7
PICTURES = 4
PLANS = ("none", "filter")
TITLES = {"none": "plain generation", "filter": "under the filter"}
JOB_TIMEOUT_S = 300.0

_DONE = (Status.SUCCEEDED, Status.PARTIAL, Status.BLOCKED)


@dataclass(frozen=True)
class DemoJob:
    """A finished job and the files of its passed pictures by index."""

    safety: str
    view: JobView
    files: Mapping[int, bytes]


class DemoFailed(SeemlyError):
    """A job of the demonstration did not come to verdicts."""


def run_jobs(url: str, request: GenerateRequest, bars: JobBars, api_key: str | None = None) -> list[DemoJob]:
    """Run the request under each plan, at the same time.

    Raises:
        DemoFailed: when a job ended without verdicts.
        SeemlyError: when the service refuses, or does not answer.
    """
    return asyncio.run(_run_jobs(url, request, bars, api_key))


async def _run_jobs(url: str, request: GenerateRequest, bars: JobBars, api_key: str | None) -> list[DemoJob]:
    async with AsyncClient(url, api_key=api_key) as client:
        return await asyncio.gather(*(_run_job(client, request, safety, bars) for safety in PLANS))


async def _run_job(client: AsyncClient, request: GenerateRequest, safety: str, bars: JobBars) -> DemoJob:
    bar = bars.add(TITLES[safety])
    job = await client.generate(request.model_copy(update={"safety": safety}))
    view = await client.wait(job.id, timeout_s=JOB_TIMEOUT_S, on_event=lambda event: bars.note(bar, event))
    if view.status not in _DONE:
        why = view.error.message if view.error else "no reason was given"
        raise DemoFailed(f"the job under {safety!r} ended as {view.status.value}: {why}")
    passed = [picture.index for picture in view.images if picture.verdict is Verdict.PASSED]
    return DemoJob(safety, view, {index: await client.image(job.id, index) for index in passed})


def write_files(jobs: list[DemoJob], request: GenerateRequest, folder: Path) -> list[Path]:
    """Write the pictures, `result.json` and `contact-sheet.png`; files of an earlier run are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for safety in PLANS:
        for old in folder.glob(f"{safety}-[0-9]*.png"):
            old.unlink()
    written = []
    for job in jobs:
        for index, file in job.files.items():
            path = folder / f"{job.safety}-{index}.png"
            path.write_bytes(file)
            written.append(path)
    result = folder / "result.json"
    views = {job.safety: job.view.model_dump(mode="json") for job in jobs}
    result.write_text(json.dumps({"prompt": request.prompt, "seed": request.seed, "jobs": views}, indent=2) + "\n")
    sheet = folder / "contact-sheet.png"
    rows = [
        SheetRow(
            f'{TITLES[job.safety]}   (safety "{job.safety}")',
            job.view,
            {index: tile_of(file) for index, file in job.files.items()},
        )
        for job in jobs
    ]
    contact_sheet(f'"{request.prompt}", model {_model_of(jobs)}', rows).save(sheet)
    return [*written, result, sheet]


def _model_of(jobs: list[DemoJob]) -> str:
    return next((job.view.safety.model for job in jobs if job.view.safety), "unknown")
