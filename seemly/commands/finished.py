"""Commands about jobs that are over: drawn, made again, appealed."""

import re
from pathlib import Path
from typing import Annotated

import typer

from seemly.commands.asking import ApiKey, AsJson, Url, connected, read_settings, request_of
from seemly.commands.terminal import check_folder, leave_as, told, write_json
from seemly.errors import FieldError, Unusable

JobId = Annotated[str, typer.Argument(help="A job's id, as `generate` tells it.", show_default=False)]


def explain(
    job: JobId,
    out: Annotated[Path | None, typer.Option(help="The file to write; JOB.png when left out.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Draw a finished job: its concepts' scores over the steps, what was corrected, how the verdict came about."""
    with told(as_json) as console:
        _check_id(job)
        path = out or Path(f"{job}.png")
        check_folder(path.parent)
        if path.is_dir():
            raise Unusable(FieldError("--out", f"{path} is a folder; name a file"))
        settings = read_settings(url, api_key)
        with connected(settings, console) as client:
            drawn = client.explanation(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn)
        if as_json:
            write_json({"id": job, "file": str(path)})
        else:
            console.print(f"Wrote {path}")


def reproduce(job: JobId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Make a job's pictures again and tell the difference, pixel by pixel. Exit code 1: they could not be made."""
    with told(as_json) as console:
        from seemly.display import JobBars, reproduction_table

        _check_id(job)
        settings = read_settings(url, api_key)
        with connected(settings, console) as client, JobBars(console) as bars:
            bar = bars.add(f"again {job}")
            again = client.wait(client.reproduce(job).id, on_event=lambda event: bars.note(bar, event))
        if as_json:
            write_json(again.model_dump(mode="json"))
        else:
            console.print(reproduction_table(again))
        leave_as(again, len(again.images), len(again.images))


def appeal(
    job: JobId,
    reason: Annotated[str, typer.Option(help="Why the picture should not have been blocked; a person reads it.")],
    index: Annotated[int, typer.Option(min=0, max=999, help="Of the blocked picture.")] = 0,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Put a blocked picture before a person. The job and its webhook tell the decision."""
    with told(as_json) as console:
        from contract.review import AppealRequest

        _check_id(job)
        wanted = request_of(AppealRequest, index=index, reason=reason)
        settings = read_settings(url, api_key)
        with connected(settings, console) as client:
            appealed = client.appeal(job, wanted.reason, wanted.index)
        if as_json:
            write_json(appealed.model_dump(mode="json"))
        else:
            console.print(f"Picture {index} of job {job} is before a person, as review {appealed.review_id}.")


def _check_id(job: str) -> None:
    if re.fullmatch(r"[0-9a-f]{32}", job) is None:
        raise Unusable(FieldError("JOB", "is no job's id, which has 32 digits and letters a to f"))
