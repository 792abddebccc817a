"""A file of measured pictures: one line for each, written as they are made, so that a run can be stopped at will."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contract.steps import PerStep


class OtherRun(ValueError):
    """The file holds results of another model or of other settings, or another run is at it."""


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
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        with self.alone():
            pass

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else adds meanwhile. What a crash tore is mended, and what others have added since is known.

        Raises:
            OtherRun: somebody else is at it, or has begun it under other settings.
        """
        with self.file.open("rb+") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OtherRun(f"another run writes to {self.file}: wait for it, or name another file") from None
            content, head = handle.read(), f"{json.dumps(self.settings)}\n".encode()
            if head.startswith(content):  # new, or not a line of it was finished
                handle.write(head[len(content) :])
                handle.flush()
            begun, lines = read(self.file)
            if begun != self.settings:
                raise OtherRun(
                    f"{self.file} was begun with another model or other settings; name another file or remove it"
                )
            if whole := content.rfind(b"\n") + 1:
                handle.truncate(whole)
            self._know(lines)
            yield

    def add(self, pictures: Sequence[Measured]) -> None:
        """Keep a chunk, in one write."""
        with self.file.open("a") as file:
            file.write("".join(json.dumps(_told(picture)) + "\n" for picture in pictures))
            file.flush()
            os.fsync(file.fileno())
        self._know(pictures)

    def _know(self, pictures: Sequence[Measured]) -> None:
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
        settings = json.loads(head)
        if not isinstance(settings, dict):
            raise ValueError("its first line is no object of settings")
        return settings, pictures
    except (ValueError, TypeError, AttributeError) as error:
        raise OtherRun(f"{file} holds no results of an evaluation: {error}") from None


def write_at_once(file: Path, content: bytes) -> None:
    """Put a file in place whole, whenever the process ends."""
    unfinished = file.with_name(f"{file.name}.part")
    unfinished.write_bytes(content)
    os.replace(unfinished, file)


def _told(picture: Measured) -> dict[str, Any]:
    return {name: value for name, value in asdict(picture).items() if value is not None}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
