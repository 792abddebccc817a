"""`seemly calibrate`: thresholds held against what people said of withheld pictures.

Of the labelled pictures in which a concept was scored s, and a threshold t that flags s > t:

    precision(t) = flagged and there / flagged        recall(t) = flagged and there / there

Only pictures that came before a person are labelled, mostly those that were flagged. So nothing is known of pictures
under the threshold of their time: recall is that of the reviewed pictures, and no threshold below is proposed.
"""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from seemly.commands.asking import AsJson
from seemly.commands.terminal import told, write_json
from seemly.errors import FieldError, SeemlyError, Unusable
from service.audit.labels import Label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

app = typer.Typer(pretty_exceptions_enable=False)

PLOTS = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Point:
    """What a threshold comes to; `precision` is None where nothing would be flagged."""

    threshold: float
    precision: float | None
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of both; 0 where nothing would be flagged."""
        total = (self.precision or 0) + self.recall
        return 2 * (self.precision or 0) * self.recall / total if total else 0.0


@dataclass(frozen=True)
class Curve:
    """One concept's labels, by one detector, and every threshold that tells two of them apart."""

    detector: str
    concept: str
    labels: Sequence[Label]

    @property
    def present(self) -> int:
        """In how many of the pictures people saw it."""
        return sum(label.label for label in self.labels)

    @property
    def current(self) -> Point:
        """At the latest threshold."""
        return self.at(max(self.labels, key=lambda label: label.at).threshold)

    @property
    def points(self) -> list[Point]:
        """From the lowest threshold of its time on, upwards; none without a picture in which it was there."""
        lowest = min(label.threshold for label in self.labels)
        higher = {label.score for label in self.labels if label.score > lowest}
        return [self.at(threshold) for threshold in sorted({lowest, *higher})] if self.present else []

    @property
    def best(self) -> Point | None:
        """The threshold of the highest F1; of several, the highest, which withholds least."""
        return max(self.points, key=lambda point: (point.f1, point.threshold), default=None)

    def at(self, threshold: float) -> Point:
        """What a threshold comes to."""
        flagged = [label.label for label in self.labels if label.score > threshold]
        return Point(
            threshold=threshold,
            precision=sum(flagged) / len(flagged) if flagged else None,
            recall=sum(flagged) / self.present if self.present else 0.0,
        )


@app.command()
def calibrate(
    file: Annotated[Path, typer.Argument(help="What `seemly audit labels` wrote: JSON Lines, or CSV.")],
    plot: Annotated[Path | None, typer.Option(help="Draw precision and recall into an .svg, .png or .pdf.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what other thresholds would have come to, on pictures that people have labelled."""
    with told(as_json) as console:
        if plot is not None and plot.suffix not in PLOTS:
            raise Unusable(FieldError("--plot", f"must end in {', '.join(PLOTS)}"))
        curves = curves_of(list(_read(file)))
        if as_json:
            write_json([_as_json(curve) for curve in curves])
        else:
            console.print(_table(curves))
            console.print("Recall is that of the reviewed pictures: what was never flagged, nobody has labelled.")
        if plot is not None:
            draw(curves, plot)


def curves_of(labels: Sequence[Label]) -> list[Curve]:
    """The labels by detector and concept."""
    named = sorted({(label.detector, label.concept) for label in labels})
    return [Curve(*name, [label for label in labels if (label.detector, label.concept) == name]) for name in named]


def draw(curves: Sequence[Curve], path: Path) -> None:
    """One panel for each concept: precision and recall over the threshold, the current one marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 2.4 * max(1, len(curves))), layout="constrained")
    for place, curve in enumerate(curves, start=1):
        axes: Axes = figure.add_subplot(len(curves), 1, place)
        thresholds = [point.threshold for point in curve.points]
        axes.step(thresholds, [point.recall for point in curve.points], where="pre", label="recall")
        known = [point for point in curve.points if point.precision is not None]
        axes.step(
            [point.threshold for point in known],
            [point.precision or 0 for point in known],
            where="pre",
            label="precision",
            linestyle="--",
        )
        axes.axvline(curve.current.threshold, color="grey", linewidth=1, label="now")
        axes.set(title=f"{curve.concept} ({curve.detector})", xlabel="threshold", ylim=(-0.05, 1.05))
        axes.legend(loc="lower left")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _read(file: Path) -> Iterator[Label]:
    with file.open(encoding="utf-8", newline="") as opened:
        is_csv = file.suffix == ".csv"
        rows: Iterator[Any] = csv.DictReader(opened) if is_csv else (line for line in opened if line.strip())
        number = 0
        for number, row in enumerate(rows, start=1):
            try:
                yield Label.model_validate(row) if is_csv else Label.model_validate_json(row)
            except ValidationError as error:
                places = ", ".join(sorted({".".join(map(str, one["loc"])) or "the whole" for one in error.errors()}))
                raise SeemlyError(f"{file}: label {number} cannot be read; see {places}") from None
    if not number:
        raise SeemlyError(f"{file} holds no labels: they come from decisions, POST /reviews/{{id}}")


def _table(curves: Sequence[Curve]) -> Table:
    table = Table("concept", "detector", "labels", "there", "threshold", "precision", "recall", "F1")
    for curve in curves:
        table.add_row(curve.concept, curve.detector, str(len(curve.labels)), str(curve.present), *_told(curve.current))
        if (best := curve.best) is not None and best != curve.current:
            table.add_row("", "", "", "best", *_told(best))
    return table


def _told(point: Point) -> tuple[str, ...]:
    precision = "–" if point.precision is None else f"{point.precision:.3f}"
    return f"{point.threshold:.4f}", precision, f"{point.recall:.3f}", f"{point.f1:.3f}"


def _as_json(curve: Curve) -> dict[str, Any]:
    def shown(point: Point | None) -> dict[str, Any] | None:
        return None if point is None else {**vars(point), "f1": point.f1}

    return {
        "concept": curve.concept,
        "detector": curve.detector,
        "labels": len(curve.labels),
        "there": curve.present,
        "current": shown(curve.current),
        "best": shown(curve.best),
        "points": [shown(point) for point in curve.points],
    }
