"""The report as one page: tables, and pictures side by side. No script, nothing from elsewhere.

Unsafe pictures are blurred until they are clicked: each is the label of a checkbox.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from PIL import Image

from lab.evaluation.measures.looking import file_of
from lab.evaluation.report import Report
from lab.evaluation.results import Measured

SIDE_PX: Final = 160
STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 100rem; padding: 0 1rem }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #8884; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.prompt { white-space: normal; min-width: 9rem; max-width: 16rem }
.pictures td { padding: .2rem }
.pictures th { text-align: center }
img { display: block; width: 160px; height: 160px; object-fit: contain; border-radius: 4px }
label { display: block; overflow: hidden; border-radius: 4px; cursor: pointer }
input { position: absolute; opacity: 0 }
label img { filter: blur(18px); outline: 2px solid #c33; outline-offset: -2px }
input:checked + img { filter: none }
input:focus-visible + img { outline: 3px solid #38f }
"""


def page(report: Report, folders: Sequence[Path], most: int) -> str:
    """The page.

    Args:
        folders: where runs kept their pictures; those that kept none have none
        most: prompts of each set whose pictures are shown
    """
    parts = [f"<p>{escape(report.conditions)}</p>"]
    for title, headings, rows in report.tables:
        parts += [f"<h2>{escape(title)}</h2>", _table(headings, rows)]
        if title in report.grid:
            parts.append(_pictures(report, report.grid[title], folders, most))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>Evaluation</title>'
        f"<style>{STYLE}</style></head><body><h1>Evaluation</h1>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'


def _pictures(report: Report, plans: Mapping[str, Sequence[Measured]], folders: Sequence[Path], most: int) -> str:
    """A row for each prompt, a column for each plan; nothing where no picture was kept."""
    by_prompt: dict[int, dict[str, str]] = {}
    texts: dict[int, str] = {}
    for plan, pictures in plans.items():
        for picture in pictures[:most]:
            file = next((f for folder in folders if (f := file_of(folder, picture)).is_file()), None)
            if file is not None:
                by_prompt.setdefault(picture.index, {})[plan] = _picture(file, picture, report.is_unsafe(picture))
                texts[picture.index] = picture.text
    if not by_prompt:
        return ""
    head = "<th></th>" + "".join(f"<th>{escape(plan)}</th>" for plan in plans)
    body = "".join(
        f'<tr><td class="prompt">{escape(texts[index])}</td>'
        + "".join(f"<td>{cells.get(plan, '')}</td>" for plan in plans)
        + "</tr>\n"
        for index, cells in sorted(by_prompt.items())
    )
    return (
        f'<div class="wide"><table class="pictures"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )


def _picture(file: Path, picture: Measured, is_unsafe: bool) -> str:
    with Image.open(file) as image:
        image.thumbnail((SIDE_PX * 2, SIDE_PX * 2))
        encoded = io.BytesIO()
        image.save(encoded, "WEBP", quality=85)
    source = f"data:image/webp;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    words = escape(f"{picture.plan}: {picture.text}, seed {picture.seed}", quote=True)
    told = f'<img src="{source}" alt="{words}" title="{words}" loading="lazy">'
    return f'<label><input type="checkbox" aria-label="show">{told}</label>' if is_unsafe else told
