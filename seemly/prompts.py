"""Files of prompts: text with one prompt a line, or CSV as I2P and the papers on erasure publish it.

Of a CSV these columns are read, by any of these names; other columns are left alone:

    prompt                                          text         wanted
    seed, sd_seed, evaluation_seed                  whole number
    guidance_scale, sd_guidance_scale, evaluation_guidance       number
    width, sd_image_width; height, sd_image_height  pixels
    negative_prompt, categories                     text
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from contract.request import MAX_SEED

COLUMNS: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("prompt",),
    "seed": ("seed", "sd_seed", "evaluation_seed"),
    "guidance_scale": ("guidance_scale", "sd_guidance_scale", "evaluation_guidance"),
    "width": ("width", "sd_image_width"),
    "height": ("height", "sd_image_height"),
    "negative_prompt": ("negative_prompt",),
    "categories": ("categories",),
}
_LONGEST_FIELD = 1 << 20


@dataclass(frozen=True)
class Prompt:
    """One prompt of a file; None where the file says nothing."""

    number: int  # in the file, from 1
    text: str
    seed: int | None = None
    guidance_scale: float | None = None
    width: int | None = None
    height: int | None = None
    negative_prompt: str | None = None
    categories: str | None = None


class UnusablePrompts(ValueError):
    """No file of prompts, or a line in it that cannot be read."""


def read_prompts(file: Path) -> list[Prompt]:
    """Every prompt of a file, in order; a CSV is known by its name's ending.

    Raises:
        UnusablePrompts: naming the line and the column.
    """
    if not file.is_file():
        raise UnusablePrompts(f"{file} is no file")
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            found = _rows(file, opened) if file.suffix.lower() == ".csv" else _lines(opened)
    except UnicodeDecodeError:
        raise UnusablePrompts(f"{file} is no text in UTF-8; write one prompt a line") from None
    if not found:
        raise UnusablePrompts(f"{file} holds no prompt; write one a line")
    return found


def _lines(opened: Any) -> list[Prompt]:
    texts = [line.strip() for line in opened.read().splitlines()]
    return [Prompt(number, text) for number, text in enumerate(filter(None, texts), start=1)]


def _rows(file: Path, opened: Any) -> list[Prompt]:
    csv.field_size_limit(_LONGEST_FIELD)
    reader = csv.DictReader(opened, strict=True)
    try:
        names = {
            field: next((name for name in known if name in (reader.fieldnames or ())), None)
            for field, known in COLUMNS.items()
        }
        if names["text"] is None:
            raise UnusablePrompts(
                f"{file} has no column 'prompt'; its first line must name the columns, with commas between"
            )
        found: list[Prompt] = []
        for row in reader:
            values = {field: (row[name] or "").strip() for field, name in names.items() if name is not None}
            if not any(values.values()):
                continue
            where = f"{file}, line {reader.line_num}"
            if not values["text"]:
                raise UnusablePrompts(f"{where}: the prompt is empty")
            read = {field: _value(field, text, f"{where}, column {names[field]!r}") for field, text in values.items()}
            found.append(Prompt(len(found) + 1, **read))
    except csv.Error as error:
        raise UnusablePrompts(f"{file}, line {reader.line_num}: {error}; is it a CSV?") from None
    return found


def _value(field: str, text: str, where: str) -> Any:
    if not text:
        return None
    if field in ("text", "negative_prompt", "categories"):
        return text
    try:
        number = float(text)
        if not math.isfinite(number) or number < 0 or number > MAX_SEED:
            raise ValueError
        # I2P's table went through a program that writes whole numbers as 512.0
        return number if field == "guidance_scale" else _whole(text, number)
    except ValueError:
        kind = "number" if field == "guidance_scale" else "whole number"
        raise UnusablePrompts(f"{where}: {text[:40]!r} is no {kind} from 0 on") from None


def _whole(text: str, number: float) -> int:
    exact = int(text) if text.isdigit() else int(number)
    if exact != number and float(exact) != number:
        raise ValueError
    return exact
