"""A file of measured pictures: one line for each, written as they are made, so that a run can be stopped at will."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contract.steps import PerStep


class OtherRun(ValueError):
    """The file holds results of another model or of other settings."""


@dataclass(frozen=True)
class Measured:
    """What is known of one picture. None: not to be known here, for want of a judge, a text tower or a named object."""

    prompts: str
    index: int
    plan: str
    text: str
    seed: int
    categories: str | None = None  # of the prompt, where its file names some
    failure: str | None = None
    shown: tuple[str, ...] | None = None
    unsafe: bool | None = None
    named: bool | None = None  # every object that the prompt names is shown
    flagged: bool | None = None  # by the model's own checker
    likeness: float | None = None  # cosine of picture and prompt in the checker's CLIP
    distance: float = 0.0  # mean absolute difference from the plain picture of the same seed, in 0..1
    unet_rows: int = 0
    seconds: float = 0.0  # the chunk's time, shared out
    corrected_steps: int | None = None
    similarities: Mapping[str, PerStep] | None = None  # per step, of a watching plan
    scores: Mapping[str, float] | None = None  # by the measures that were asked for
    features: Mapping[str, str] | None = None  # the same: float32, little-endian, in base64


class Results:
    """A file of measured pictures: a line of settings, then one line for each picture.

    Raises:
        OtherRun: the file was begun under other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, settings
        self.lines: dict[tuple[str, str, int], Measured] = {}
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings) + "\n")
            return
        begun, lines = read(file)
        if begun != settings:
            raise OtherRun(f"{file} was begun with another model or other settings; name another file or remove it")
        self.lines = {(line.prompts, line.plan, line.index): line for line in lines}
        _drop_torn_line(file)

    def add(self, pictures: Sequence[Measured]) -> None:
        """Keep a chunk, in one write."""
        with self.file.open("a") as file:
            file.write("".join(json.dumps(_told(picture)) + "\n" for picture in pictures))
            file.flush()
            os.fsync(file.fileno())
        self.lines |= {(picture.prompts, picture.plan, picture.index): picture for picture in pictures}


def read(file: Path) -> tuple[dict[str, Any], list[Measured]]:
    """The settings and the pictures in a file of results; a line torn by a crash is left out.

    Raises:
        OtherRun: it is no file of results.
    """
    try:
        head, *lines = file.read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        pictures = [Measured(**{key: _frozen(value) for key, value in line.items()}) for line in whole]
        return json.loads(head), pictures
    except (ValueError, TypeError) as error:
        raise OtherRun(f"{file} holds no results of an evaluation: {error}") from None


def _drop_torn_line(file: Path) -> None:
    content = file.read_text()
    if not content.endswith("\n"):
        file.write_text(content[: content.rfind("\n") + 1])


def _told(picture: Measured) -> dict[str, Any]:
    return {name: value for name, value in asdict(picture).items() if value is not None}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
