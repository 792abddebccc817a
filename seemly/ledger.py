"""What a batch has come to so far, on disk, so that a batch that was ended in any way goes on where it was.

batch.json       what was asked for; written once
results.jsonl    one line for every piece that came to its end, appended and synced after its files were
pictures/        <prompt's number>-<picture's index>.<format>
results.csv      the table of it all, written anew at every end
"""

import csv
import fcntl
import io
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from pydantic import Field, ValidationError

from contract.result import JobView, Picture
from contract.strict import Strict
from contract.verdict import Verdict
from seemly.errors import FieldError, SeemlyError, Unusable

FORMAT: Final = 1
REFUSED: Final = "refused"  # in the place of a verdict: the service took no such request


class PictureRow(Strict):
    """A line of the table: what became of one picture."""

    number: int
    index: int
    prompt: str
    categories: str | None
    seed: int
    guidance_scale: float | None
    width: int | None
    height: int | None
    verdict: str
    action: str | None = None
    blurred: bool = False
    file: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    job: str | None = None
    model: str | None = None
    weights_sha256: str | None = None
    flagged: tuple[str, ...] = ()
    scores: dict[str, float] = Field({})
    error: str | None = None

    def told(self, picture: Picture, job: JobView, file: Path | None) -> "PictureRow":
        """The row after its job has ended."""
        scores = {f"{score.detector}:{score.name}": score.score for score in picture.concepts}
        flagged = [f"{score.detector}:{score.name}" for score in picture.concepts if score.flagged]
        return self.model_copy(
            update={
                "seed": picture.seed,
                "width": picture.width,
                "height": picture.height,
                "verdict": picture.verdict.value,
                "action": picture.action.value if picture.action else None,
                "blurred": picture.blurred,
                "file": str(Path(file.parent.name) / file.name) if file else None,
                "size_bytes": file.stat().st_size if file else None,
                "sha256": picture.sha256 if file else None,
                "job": job.id,
                "model": job.safety.model if job.safety else None,
                "weights_sha256": job.safety.weights_sha256 if job.safety else None,
                "flagged": tuple(flagged),
                "scores": scores,
                "error": picture.error.message if picture.error else None,
            }
        )

    @property
    def is_done(self) -> bool:
        """Whether it has a verdict, so that nothing is left to be made of it."""
        return self.verdict in (Verdict.PASSED, Verdict.BLOCKED, Verdict.REVIEW)


class Ledger:
    """One batch's folder. Only one process may hold it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock: IO[str] | None = None
        self._log: IO[str] | None = None
        self._weights: set[str] = set()  # that made what is there
        self.batch = ""
        self.base_seed = 0
        self.rows: dict[tuple[int, int], PictureRow] = {}  # by the prompt's number and the picture's index
        self.failures: dict[tuple[int, int], int] = {}  # how often a picture ended without a verdict

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for opened in (self._log, self._lock):
            if opened is not None:
                opened.close()

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return self._folder / "pictures"

    @property
    def table(self) -> Path:
        """The table's file."""
        return self._folder / "results.csv"

    def open(self, asked: Mapping[str, Any], base_seed: int) -> None:
        """Begin the batch that was asked for, or go on with it.

        Raises:
            Unusable: the folder holds another batch, or another process works on it.
        """
        self.pictures.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / ".lock").open("a")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unusable(FieldError("--out", f"another process works on {self._folder}; wait for it")) from None
        manifest = self._folder / "batch.json"
        if manifest.exists():
            self._go_on(manifest, asked)
        else:
            self.batch, self.base_seed = secrets.token_hex(16), base_seed
            begun = {"format": FORMAT, "batch": self.batch, "base_seed": base_seed, "asked": dict(asked)}
            _replace(manifest, json.dumps(begun, indent=2) + "\n")
        self._read()
        self._log = (self._folder / "results.jsonl").open("a")

    def _go_on(self, manifest: Path, asked: Mapping[str, Any]) -> None:
        try:
            begun = json.loads(manifest.read_text())
            before, self.batch, self.base_seed = begun["asked"], str(begun["batch"]), int(begun["base_seed"])
        except (ValueError, LookupError, TypeError):
            error = FieldError("--out", f"{manifest} is no batch of this version; take another folder")
            raise Unusable(error) from None
        wanted = json.loads(json.dumps(dict(asked)))
        changed = [
            FieldError(name, f"was {_said(then)} when this batch began, and is {_said(now)} now")
            for name in sorted(before.keys() | wanted.keys())
            if (then := before.get(name)) != (now := wanted.get(name))
        ]
        if changed:
            raise Unusable(*changed, FieldError("--out", "take another folder, or ask for the same as before"))

    def _read(self) -> None:
        file = self._folder / "results.jsonl"
        whole, content = 0, file.read_bytes() if file.exists() else b""
        for line in content.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break  # the process was ended while it wrote this
            whole += len(line)
            try:
                self._take(PictureRow.model_validate(row) for row in json.loads(line))
            except (ValueError, ValidationError):
                raise Unusable(FieldError("--out", f"{file} is damaged; take another folder")) from None
        if whole < len(content):
            with file.open("r+b") as opened:
                opened.truncate(whole)
        for place, row in list(self.rows.items()):
            if not self._has_its_file(row):
                del self.rows[place]

    def _has_its_file(self, row: PictureRow) -> bool:
        if row.file is None:
            return True
        file = self._folder / row.file
        return file.is_file() and file.stat().st_size == row.size_bytes

    def _take(self, rows: Iterable[PictureRow]) -> None:
        rows = list(rows)
        self._weights |= _weights_of(rows)
        for row in rows:
            place = (row.number, row.index)
            if not row.is_done:
                self.failures[place] = self.failures.get(place, 0) + 1
            self.rows[place] = row

    def has(self, number: int, index: int) -> bool:
        """Whether nothing is left to be made of a picture."""
        row = self.rows.get((number, index))
        return row is not None and row.is_done

    def save(self, number: int, index: int, ending: str, content: bytes) -> Path:
        """Write a picture's file, whole or not at all."""
        path = self.pictures / f"{number:05d}-{index:02d}.{ending}"
        _replace(path, content)
        return path

    def note(self, rows: list[PictureRow]) -> None:
        """Keep what a piece came to.

        Raises:
            SeemlyError: other weights than before made it.
        """
        if self._log is None:
            raise RuntimeError("the ledger is not open")
        if len(self._weights | _weights_of(rows)) > 1:
            raise SeemlyError(
                "the service has other weights now than when this batch began; take another --out, or serve the same"
                " model"
            )
        self._log.write(json.dumps([row.model_dump(mode="json") for row in rows]) + "\n")
        self._log.flush()
        os.fsync(self._log.fileno())
        self._take(rows)

    def write_table(self) -> None:
        """Write the table of everything that has come to an end."""
        rows = [self.rows[place] for place in sorted(self.rows)]
        concepts = sorted({concept for row in rows for concept in row.scores})
        fields = [name for name in PictureRow.model_fields if name not in ("scores", "flagged", "size_bytes")]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*fields, "flagged", *concepts])
        for row in rows:
            told = row.model_dump(mode="json", include=set(fields))
            cells = ["" if told[name] is None else told[name] for name in fields]
            writer.writerow([*cells, "; ".join(row.flagged), *(row.scores.get(concept, "") for concept in concepts)])
        _replace(self.table, text.getvalue())


def _weights_of(rows: Iterable[PictureRow]) -> set[str]:
    return {row.weights_sha256 for row in rows if row.weights_sha256 is not None}


def _said(value: Any) -> str:
    return "left out" if value is None else json.dumps(value)


def _replace(path: Path, content: str | bytes) -> None:
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as opened:
        opened.write(content.encode() if isinstance(content, str) else content)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(part, path)
