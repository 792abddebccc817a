"""What the command line shows: a table of verdicts, a bar for every job."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from contract.moderation import Moderation
from contract.result import (
    JobError,
    JobView,
    Picture,
    Scored,
    concepts_to_compare,
    nearest_scores,
    scores_of,
    verdict_words,
)
from contract.verdict import Verdict
from seemly.events import Event

STYLES = {Verdict.PASSED: "green", Verdict.BLOCKED: "bold red", Verdict.REVIEW: "yellow", Verdict.ERROR: "dim"}
SCORES_SHOWN = 3


def verdict_table(jobs: Sequence[tuple[str, JobView]], scores_shown: int = SCORES_SHOWN) -> Table:
    """A line for each of the concepts nearest to their thresholds, by picture, by job."""
    table = Table(header_style="bold")
    for name in ("safety", "picture", "seed", "verdict", "concept"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "threshold", "margin"):
        table.add_column(name, justify="right")
    for title, job in jobs:
        for position, picture in enumerate(job.images):
            _add_picture(table, title if position == 0 else "", picture, scores_shown)
        table.add_section()
    return table


def _add_picture(table: Table, title: str, picture: Picture, scores_shown: int) -> None:
    head: list[str | Text] = [title, str(picture.index), str(picture.seed), _verdict(picture)]
    _add_scores(table, head, picture, picture.error, scores_shown)


def _add_scores(
    table: Table, head: list[str | Text], picture: Scored, error: JobError | None, scores_shown: int
) -> None:
    shown = nearest_scores(picture, scores_shown)
    if not shown:
        table.add_row(*head, error.message if error else "", "", "", "")
    for number, score in enumerate(shown):
        style = "red" if score.flagged else ""
        cells = (score.name, f"{score.score:.3f}", f"{score.threshold:.3f}", f"{score.margin:+.3f}")
        table.add_row(*(head if number == 0 else [""] * len(head)), *(Text(cell, style=style) for cell in cells))


def _verdict(picture: Picture) -> Text:
    return Text(verdict_words(picture), style="yellow" if picture.blurred else STYLES[picture.verdict])


def comparison_table(job: JobView) -> Table:
    """A line for each plan: what it cost, how far it is from the first, and the scores nearest to their thresholds."""
    table = Table(header_style="bold")
    for name in ("plan", "verdict"):
        table.add_column(name, no_wrap=True)
    concepts = concepts_to_compare(job)
    for name in ("UNet rows", "distance", *(name for _, name in concepts)):
        table.add_column(name, justify="right")
    for entry in job.comparison:
        picture = job.images[entry.index]
        scores = {(score.detector, score.name): score for score in scores_of(picture, concepts)}
        moved = {(each.detector, each.name): each.difference for each in entry.differences}
        cells = []
        for concept in concepts:
            score, change = scores.get(concept), moved.get(concept)
            text = "" if score is None else f"{score.score:.3f}" + ("" if change is None else f" ({change:+.3f})")
            cells.append(Text(text, style="red" if score is not None and score.flagged else ""))
        distance = "" if entry.distance is None else f"{entry.distance:.1f}"
        table.add_row(entry.label, _verdict(picture), str(entry.unet_rows), distance, *cells)
    return table


def why_unmade(job: JobView) -> tuple[str, ...]:
    """The reasons of pictures that are withheld and were never made: no scores in a table tell those."""
    return tuple(dict.fromkeys(why for picture in job.images if not picture.concepts for why in picture.reasons))


def moderation_table(judged: Sequence[tuple[Sequence[Path], Moderation]], scores_shown: int = SCORES_SHOWN) -> Table:
    """A line for each of the concepts nearest to their thresholds, by file."""
    table = Table(header_style="bold")
    for name in ("file", "verdict", "concept"):
        table.add_column(name, no_wrap=True)
    for name in ("score", "threshold", "margin"):
        table.add_column(name, justify="right")
    for files, moderation in judged:
        for file, picture in zip(files, moderation.images, strict=True):
            head: list[str | Text] = [file.name, Text(picture.verdict.value, style=STYLES[picture.verdict])]
            _add_scores(table, head, picture, picture.error, scores_shown)
    return table


def reproduction_table(job: JobView) -> Table:
    """A line for each picture that was made again: how it differs from the one before."""
    table = Table(header_style="bold")
    for name in ("picture", "before", "now", "same pixels"):
        table.add_column(name, no_wrap=True)
    for name in ("largest difference", "mean difference", "pixels that differ"):
        table.add_column(name, justify="right")
    for one in job.reproduction.images if job.reproduction else ():
        same = {True: "yes", False: "no", None: "not compared"}[one.same_pixels]
        before = Text(one.verdict_before.value, style=STYLES[one.verdict_before])
        numbers = [
            "" if value is None else form.format(value)
            for form, value in (
                ("{}", one.max_difference),
                ("{:g}", one.mean_difference),
                ("{:.2%}", one.different_share),
            )
        ]
        table.add_row(str(one.index), before, _verdict(job.images[one.index]), same, *numbers)
    return table


class JobBars:
    """A bar per job, moved by its events."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} steps"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[state]}"),
            console=console,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, title: str) -> TaskID:
        """A bar for one more job."""
        return self._progress.add_task(title, total=1, state="submitted")

    def note(self, bar: TaskID, event: Event) -> None:
        """Move a bar to where the event says its job is."""
        match event.type:
            case "snapshot" | "finished":
                self._progress.update(bar, state=str(event.data.get("status", "")))
            case "queued":
                position = event.data.get("position")
                self._progress.update(bar, state="queued" if position is None else f"queued, {position} before it")
            case "started":
                self._progress.update(bar, state="running")
            case "progress":
                steps = max(1, int(event.data["steps"]))
                self._progress.update(bar, completed=int(event.data["step"]), total=steps, state="running")
        if event.is_last:
            task = self._progress.tasks[bar]
            self._progress.update(bar, completed=task.total)
