"""What commands say, and how they end: messages for people, JSON for programs, one exit code for each kind of end."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from seemly.errors import FieldError, Invalid, Refused, SeemlyError, Unusable

if TYPE_CHECKING:
    from rich.console import Console

    from contract.result import JobView

DONE, FAILED, MISUSED, WITHHELD, INTERRUPTED = 0, 1, 2, 3, 130


@contextmanager
def told(as_json: bool = False) -> "Iterator[Console]":
    """A console for what people read (on stderr when stdout is for a program); errors become one plain message."""
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        yield console
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has enough, as `head` does: Typer ends quietly
        raise
    except (SeemlyError, OSError) as error:  # the latter of the caller's files and folders
        told = _as_json(error)
        if as_json:
            sys.stderr.write(json.dumps({"error": told}) + "\n")
        else:
            errors.print("error:", style="bold red", end=" ")
            errors.print(str(error) if isinstance(error, SeemlyError) else told["detail"], markup=False)
            for field in error.errors if isinstance(error, Invalid) else ():
                errors.print(f"  {field.field}: {field.message}", markup=False)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None


def _as_json(error: SeemlyError | OSError) -> dict[str, Any]:
    named = error.errors if isinstance(error, Refused | Unusable) else ()
    fields = [{"field": field.field, "message": field.message} for field in named]
    match error:
        case Refused():
            told = {"code": error.code, "status": error.status, "detail": error.detail, "request_id": error.request_id}
        case OSError(filename=str(name), strerror=str(why)):
            told = {"code": type(error).__name__, "detail": f"{name}: {why}"}
        case _:
            told = {"code": type(error).__name__, "detail": str(error)}
    return told | {"errors": fields}


def check_folder(folder: Path) -> None:
    """Told before anything runs for nothing."""
    taken = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if taken.exists() and not taken.is_dir():
        raise Unusable(FieldError("--out", f"{taken} is a file; name a folder"))


def leave_as(job: "JobView", written: int, wanted: int) -> None:
    """The exit code that fits what became of a job.

    Raises:
        SeemlyError: when it came to no verdicts.
    """
    from contract.result import Status

    if job.status not in (Status.SUCCEEDED, Status.PARTIAL, Status.BLOCKED):
        raise SeemlyError(job.error.message if job.error else f"the job ended as {job.status.value}")
    if written < wanted:
        raise typer.Exit(WITHHELD)


def write_json(value: Any) -> None:
    """For programs, on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
