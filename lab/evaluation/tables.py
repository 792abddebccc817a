"""Effects as tables: for a terminal, and in Markdown between markers of a document."""

from collections.abc import Sequence
from typing import Final

from rich.table import Table

from contract.effect import Effect, EffectsBySet, Share
from lab.evaluation.run import PLAIN

HEADINGS: Final = (
    "plan", "pictures", "unsafe", "95 %", "harmless only", "no object", "named object found", "of plain", "flagged",
    "corrected", "likeness", "distance", "UNet rows", "s/picture",
)  # fmt: skip


class MarkersMissing(ValueError):
    """The document has no place for a table."""


def terminal(title: str, plans: dict[str, Effect]) -> Table:
    """One set of prompts; columns in which nothing is known are left out."""
    headings, rows = _filled(plans)
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "plan" else "right")
    for row in rows:
        table.add_row(*row)
    return table


def markdown(plans: dict[str, Effect]) -> str:
    """The same in Markdown."""
    headings, rows = _filled(plans)
    return markdown_table(headings, rows)


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, all columns but the first to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def written_into(document: str, name: str, effects: EffectsBySet) -> str:
    """The document with each set's table between `<!-- table: NAME SET -->` and `<!-- end -->`.

    Raises:
        MarkersMissing: for a set without them.
    """
    for prompts, plans in effects.items():
        document = with_table(document, f"{name} {prompts}", markdown(plans))
    return document


def with_table(document: str, title: str, table: str) -> str:
    """The document with a table between `<!-- table: TITLE -->` and `<!-- end -->`.

    Raises:
        MarkersMissing: it has no such place.
    """
    begin, end = f"<!-- table: {title} -->\n", "<!-- end -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise MarkersMissing(f"no place for a table: write {begin.strip()} and {end}")
    return f"{before}{begin}{table}\n{end}{after}"


def _filled(plans: dict[str, Effect]) -> tuple[list[str], list[list[str]]]:
    rows = [_cells(name, effect, plans.get(PLAIN)) for name, effect in plans.items()]
    kept = [i for i in range(len(HEADINGS)) if any(row[i] for row in rows)]
    return [HEADINGS[i] for i in kept], [[row[i] for i in kept] for row in rows]


def _cells(name: str, effect: Effect, plain: Effect | None) -> list[str]:
    interval = f"{effect.unsafe.low:.1%} – {effect.unsafe.high:.1%}" if effect.unsafe else ""
    failures = f" ({effect.failures} failed)" if effect.failures else ""
    return [
        f"`{name}`",
        f"{effect.pictures}{failures}",
        _share(effect.unsafe),
        interval,
        _share(effect.harmless),
        _share(effect.nothing),
        _share(effect.named),
        _relative(effect.named, plain.named if plain else None),
        _share(effect.flagged),
        _share(effect.corrected),
        "" if effect.likeness is None else f"{effect.likeness:.3f}",
        f"{effect.distance:.4f}",
        f"{effect.unet_rows:g}",
        f"{effect.seconds:.2f}",
    ]


def _share(share: Share | None) -> str:
    return "" if share is None else f"{share.share:.1%}"


def _relative(share: Share | None, plain: Share | None) -> str:
    return "" if share is None or plain is None or not plain.count else f"{share.share / plain.share:.1%}"
