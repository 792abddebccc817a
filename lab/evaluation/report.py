"""A report of a run: every picture's scores as CSV and Parquet, and tables of every plan with 95 % intervals."""

import csv
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from contract.effect import Share
from lab.evaluation.manifest import Manifest, manifest_of, reference_of
from lab.evaluation.measures import frechet
from lab.evaluation.measures.frechet import Gaussian
from lab.evaluation.measures.looking import unpacked
from lab.evaluation.measures.measure import Figure
from lab.evaluation.results import Measured, OtherRun, read
from lab.evaluation.run import PLAIN
from lab.evaluation.summary import Z_95, share_of

COLUMNS: Final = (
    "prompts", "index", "plan", "text", "seed", "categories", "failure", "shown", "unsafe", "named", "flagged",
    "likeness", "distance", "unet_rows", "seconds", "corrected_steps",
)  # fmt: skip
Grid = Mapping[str, Mapping[str, Sequence[Measured]]]  # set → plan → pictures in order


@dataclass(frozen=True)
class Report:
    """Pictures of one run or of several under the same settings."""

    settings: Mapping[str, Any]
    pictures: Sequence[Measured]
    figures: tuple[Figure, ...]  # of the measures that were asked for
    references: Mapping[str, Gaussian]  # measure of whole sets → its reference
    manifests: tuple[Manifest, ...]

    @classmethod
    def of(cls, files: Sequence[Path]) -> "Report":
        """Of files of results, with the manifests beside them.

        Raises:
            OtherRun: one is none, or they were made under different settings.
            OSError: one is not to be read.
        """
        contents = [read(file) for file in files]
        settings = contents[0][0]
        if any(other != settings for other, _ in contents):
            raise OtherRun("the files were made with different models, settings or measures")
        # Every run measures plain generation, so two runs of the same prompts hold the same pictures of it.
        pictures: dict[tuple[str, str, int], Measured] = {}
        for each in (each for _, part in contents for each in part):
            other = pictures.get(key := (each.prompts, each.plan, each.index), each)
            if (other.text, other.seed) != (each.text, each.seed):
                raise OtherRun(f"{each.prompts} stands for different prompts in these files; report on them one by one")
            pictures[key] = each  # the latest counts, as when a run goes on
        try:
            manifests = tuple(Manifest.read(manifest_of(file)) for file in files if manifest_of(file).exists())
        except ValueError as error:
            raise OtherRun(f"a manifest beside the results cannot be read: {error}") from None
        if unlike := _unlike(manifest.asked.plans for manifest in manifests):
            raise OtherRun(f"{unlike} stands for different plans in these files; report on them one by one")
        if unlike := _unlike(manifest.found.variants for manifest in manifests):
            raise OtherRun(f"{unlike} stands for different weights in these files; report on them one by one")
        detectors = {name: each for manifest in manifests for name, each in manifest.found.detectors.items()}
        references = {
            name: Gaussian.read(reference_of(file, name))
            for file in files
            for name in detectors
            if reference_of(file, name).exists()
        }
        figures = tuple(figure for each in detectors.values() for figure in each.figures)
        return cls(settings, list(pictures.values()), figures, references, manifests)

    @property
    def variants(self) -> dict[str, str]:
        """Hashes of the erased weights that plans name, as far as manifests tell."""
        return {name: sha256 for manifest in self.manifests for name, sha256 in manifest.found.variants.items()}

    @property
    def grid(self) -> Grid:
        """Sets and plans in the order in which they were met, plain first."""
        grid: dict[str, dict[str, list[Measured]]] = {}
        for each in self.pictures:
            grid.setdefault(each.prompts, {PLAIN: []}).setdefault(each.plan, []).append(each)
        return {
            prompts: {plan: sorted(members, key=lambda each: each.index) for plan, members in plans.items() if members}
            for prompts, plans in grid.items()
        }

    @property
    def tables(self) -> list[tuple[str, list[str], list[list[str]]]]:
        """Title, headings and rows of every set, and of every category that prompts of it have."""
        tables = []
        for prompts, plans in self.grid.items():
            tables.append((prompts, *self._table(plans)))
            categories = {name for pictures in plans.values() for each in pictures for name in _categories(each)}
            for category in sorted(categories):
                of_it = [
                    (plan, [each for each in found if category in _categories(each)]) for plan, found in plans.items()
                ]
                tables.append((f"{prompts}: {category}", *self._table({plan: some for plan, some in of_it if some})))
        return tables

    def is_unsafe(self, picture: Measured) -> bool:
        """Whether anything that looked at it says so; one that nothing but the checker looked at goes by that."""
        scores = picture.scores or {}
        found = [
            scores[figure.score] >= figure.at_least
            for figure in self.figures
            if figure.means_unsafe and figure.at_least is not None and figure.score in scores
        ]
        return bool(picture.flagged or picture.unsafe) or any(found)

    def _table(self, plans: Mapping[str, Sequence[Measured]]) -> tuple[list[str], list[list[str]]]:
        """Columns in which nothing is known are left out."""
        rows = [dict(self._cells(plan, pictures)) for plan, pictures in plans.items()]
        headings = [
            name for name in dict.fromkeys(name for row in rows for name in row) if any(r.get(name) for r in rows)
        ]
        return headings, [[row.get(name, "") for name in headings] for row in rows]

    def _cells(self, plan: str, pictures: Sequence[Measured]) -> Iterable[tuple[str, str]]:
        whole = [each for each in pictures if each.failure is None]
        failed = len(pictures) - len(whole)
        yield "plan", plan
        yield "pictures", f"{len(pictures)} ({failed} failed)" if failed else str(len(pictures))
        yield "unsafe", _share(share_of(each.unsafe for each in whole))
        yield "named object", _share(share_of(each.named for each in whole))
        yield "flagged", _share(share_of(each.flagged for each in whole))
        for figure in self.figures:
            scores = [each.scores[figure.score] for each in whole if each.scores and figure.score in each.scores]
            bound = figure.at_least
            told = _mean(scores) if bound is None else _share(share_of(score >= bound for score in scores))
            yield figure.title, told
        if any(figure.means_unsafe for figure in self.figures):
            yield "by any of these", _share(share_of(self.is_unsafe(each) for each in whole))
        for name, reference in self.references.items():
            features = [each.features[name] for each in whole if each.features and name in each.features]
            apart = frechet.distance(Gaussian.of(unpacked(features)), reference) if len(features) > 1 else None
            yield f"Fréchet, {name}", "" if apart is None else f"{apart:.4f}"
        yield "likeness", _mean([each.likeness for each in whole if each.likeness is not None])
        yield "distance", _mean([each.distance for each in whole])
        yield "UNet rows", f"{statistics.fmean([each.unet_rows for each in whole] or [0]):g}"
        yield "s/picture", f"{statistics.median([each.seconds for each in pictures]):.2f}"

    @property
    def conditions(self) -> str:
        """What it was measured under, and by what, in words."""
        settings = self.settings
        told = (
            f"Weights {str(settings.get('weights_sha256'))[:12]}, {settings.get('steps')} steps, guidance"
            f" {settings.get('guidance_scale')}. Shares with Wilson's intervals, means with ± 1.96 standard errors,"
            " both at 95 %; failed pictures are left out."
        )
        detectors = {
            name: each.version for manifest in self.manifests for name, each in manifest.found.detectors.items()
        }
        named = [f"{name} ({version})" for name, version in detectors.items()]
        return told + (f" Looked at by: {', '.join(named)}." if named else "")

    def markdown(self) -> str:
        """Every set's table, and what it was measured under."""
        parts = ["# Report", self.conditions]
        for title, headings, rows in self.tables:
            lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
            parts += [f"## {title}", "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)]
        return "\n\n".join(parts) + "\n"

    def write_csv(self, file: Path) -> None:
        """A line for each picture."""
        names, rows = self._columns()
        with file.open("w", newline="", encoding="utf-8") as handle:
            csv.writer(handle, lineterminator="\n").writerows([names, *zip(*rows, strict=True)])

    def write_parquet(self, file: Path) -> bool:
        """The same as Parquet; False where pyarrow is not installed."""
        if find_spec("pyarrow") is None:
            return False
        pyarrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        names, columns = self._columns()
        parquet.write_table(pyarrow.table(dict(zip(names, columns, strict=True))), file)
        return True

    def _columns(self) -> tuple[list[str], list[list[Any]]]:
        scores = sorted({name for each in self.pictures for name in each.scores or {}})
        columns: list[list[Any]] = [[_plain_value(getattr(each, name)) for each in self.pictures] for name in COLUMNS]
        columns += [[(each.scores or {}).get(name) for each in self.pictures] for name in scores]
        return [*COLUMNS, *scores], columns


def _unlike(named: Iterable[Mapping[str, object]]) -> str:
    """The names that stand for different things, one after the other."""
    all_ = [pair for each in named for pair in each.items()]
    return ", ".join(
        sorted({name for name, one in all_ for other, another in all_ if name == other and one != another})
    )


def _categories(picture: Measured) -> list[str]:
    """As I2P writes them, with commas between."""
    return [name.strip() for name in (picture.categories or "").split(",") if name.strip()]


def _plain_value(value: Any) -> Any:
    return ";".join(value) if isinstance(value, tuple) else value


def _share(share: Share | None) -> str:
    return "" if share is None else f"{share.share:.1%} ({share.low:.1%} – {share.high:.1%})"


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = statistics.fmean(values)
    if len(values) == 1:
        return f"{mean:.4f}"
    return f"{mean:.4f} ± {Z_95 * statistics.stdev(values) / math.sqrt(len(values)):.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
