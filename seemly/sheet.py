"""The contact sheet: jobs of the same prompt under each other, every picture with its verdict and scores.

A withheld picture is a plain tile with the reason on it: its bytes do not exist anywhere.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from contract.result import JobView, Picture
from contract.verdict import Verdict
from seemly.display import nearest_scores

TILE_PX = 192
GAP_PX = 16
LABEL_PX = 84
HEADING_PX = 40
TITLE_PX = 56
SCORES_SHOWN = 3

PAPER, INK, FAINT, TILE, FLAGGED = "#fbfaf7", "#22262b", "#7b8087", "#dcdad4", "#9a6700"
COLOURS = {
    Verdict.PASSED: "#1f7a4d",
    Verdict.BLOCKED: "#b3261e",
    Verdict.REVIEW: "#9a6700",
    Verdict.ERROR: "#6b6f76",
}


@dataclass(frozen=True)
class SheetRow:
    """One job, how it is called on the sheet, and the files of its passed pictures by index."""

    title: str
    job: JobView
    files: Mapping[int, bytes]


def contact_sheet(title: str, rows: Sequence[SheetRow]) -> Image.Image:
    """Draw the sheet.

    Raises:
        ValueError: when there is nothing to draw.
    """
    columns = max((len(row.job.images) for row in rows), default=0)
    if columns == 0:
        raise ValueError("no pictures to put on a sheet")
    row_px = HEADING_PX + TILE_PX + LABEL_PX
    size = (GAP_PX + columns * (TILE_PX + GAP_PX), TITLE_PX + len(rows) * (row_px + GAP_PX) + GAP_PX)
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP_PX, GAP_PX), _cut(draw, title, size[0] - 2 * GAP_PX, 22), fill=INK, font=_font(22))
    for number, row in enumerate(rows):
        top = TITLE_PX + number * (row_px + GAP_PX)
        draw.text((GAP_PX, top + 12), row.title, fill=INK, font=_font(16))
        draw.line((GAP_PX, top + 36, size[0] - GAP_PX, top + 36), fill=TILE)
        for picture in row.job.images:
            corner = (GAP_PX + picture.index * (TILE_PX + GAP_PX), top + HEADING_PX)
            _draw_picture(sheet, draw, corner, picture, row.files.get(picture.index))
    return sheet


def _draw_picture(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: Picture, file: bytes | None
) -> None:
    x, y = corner
    if file is None:
        _draw_withheld(draw, corner, picture)
    else:
        with Image.open(io.BytesIO(file)) as opened:
            sheet.paste(_fitted(opened.convert("RGB")), corner)
    is_flagged = any(score.flagged for score in picture.concepts)
    colour = FLAGGED if picture.verdict is Verdict.PASSED and is_flagged else COLOURS[picture.verdict]
    verdict = picture.verdict.value + (", flagged" if is_flagged and file is not None else "")
    draw.rectangle((x, y, x + TILE_PX - 1, y + TILE_PX - 1), outline=colour, width=3)
    draw.text((x, y + TILE_PX + 5), f"{verdict}   seed {picture.seed}", fill=colour, font=_font(14))
    for line, score in enumerate(nearest_scores(picture, SCORES_SHOWN)):
        text = f"{score.name} {score.score:.3f} ({score.margin:+.3f})"
        ink = COLOURS[Verdict.BLOCKED] if score.flagged else FAINT
        place = (x, y + TILE_PX + 24 + 17 * line)
        draw.text(place, _cut(draw, text, TILE_PX, 12), fill=ink, font=_font(12))


def _draw_withheld(draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: Picture) -> None:
    x, y = corner
    draw.rectangle((x, y, x + TILE_PX - 1, y + TILE_PX - 1), fill=TILE)
    draw.text((x + 14, y + 16), "withheld", fill=INK, font=_font(20))
    reason = picture.reasons[0] if picture.reasons else picture.error.message if picture.error else "no reason given"
    for line, text in enumerate(textwrap.wrap(reason, 27, max_lines=7, placeholder=" ...")):
        draw.text((x + 14, y + 52 + 18 * line), text, fill=INK, font=_font(12))


def _fitted(picture: Image.Image) -> Image.Image:
    """Scaled to the tile, sides in proportion, centred on the tile's colour."""
    scale = TILE_PX / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    tile = Image.new("RGB", (TILE_PX, TILE_PX), TILE)
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
    tile.paste(scaled, ((TILE_PX - width) // 2, (TILE_PX - height) // 2))
    return tile


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _cut(draw: ImageDraw.ImageDraw, text: str, width_px: int, size_px: int) -> str:
    """The text, or as much of it as fits."""
    if draw.textlength(text, font=_font(size_px)) <= width_px:
        return text
    while text and draw.textlength(f"{text}...", font=_font(size_px)) > width_px:
        text = text[:-1]
    return f"{text}..."
