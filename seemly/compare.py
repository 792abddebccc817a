"""`seemly compare`: one prompt and seed under several plans, and what of it goes into a folder."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from contract.compare import CompareRequest
from contract.result import JobView


def plan_named(text: str) -> str | tuple[str, ...]:
    """`"sld:medium"`, or several methods in one plan: `"safree+filter"`."""
    names = tuple(part.strip() for part in text.split("+"))
    return names if len(names) > 1 else names[0]


def write_files(
    job: JobView, request: CompareRequest, files: Mapping[int, bytes], sheet: bytes | None, folder: Path
) -> list[Path]:
    """Write the passed pictures, `result.json` and, where there is one, `contact-sheet.png`; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {f"{index}-{_as_name(request.names[index])}.png": file for index, file in files.items()}
    result = {"prompt": request.prompt, "job": job.model_dump(mode="json")}
    contents["result.json"] = (json.dumps(result, indent=2) + "\n").encode()
    if sheet is not None:
        contents["contact-sheet.png"] = sheet
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def _as_name(label: str) -> str:
    """A label as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", label.casefold()).strip("-") or "plan"
