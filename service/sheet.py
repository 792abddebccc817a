"""The contact sheet: jobs of the same prompt under each other, every picture with its verdict and scores.

A withheld picture is a plain tile with the reason on it: its bytes do not exist anywhere.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from contract.result import (
    ComparedPicture,
    JobView,
    Picture,
    concepts_to_compare,
    nearest_scores,
    scores_of,
    verdict_words,
)
from contract.verdict import ConceptScore, Verdict

TILE_PX = 192
GAP_PX = 16
LABEL_PX = 100
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
    """One job, how it is called on the sheet, and the tiles of its passed pictures by index (see `tile_of`)."""

    title: str
    job: JobView
    tiles: Mapping[int, Image.Image]


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
        compared = {entry.index: entry for entry in row.job.comparison}
        for picture in row.job.images:
            x, y = GAP_PX + picture.index * (TILE_PX + GAP_PX), top + HEADING_PX
            tile = row.tiles.get(picture.index)
            _draw_picture(sheet, draw, (x, y), picture, tile)
            if compared:
                heading, shown = _of_plan(compared[picture.index]), scores_of(picture, concepts_to_compare(row.job))
            else:
                heading, shown = f"seed {picture.seed}", nearest_scores(picture, SCORES_SHOWN)
            _draw_words(draw, (x, y + TILE_PX), picture, heading, shown)
    return sheet


def png_of_sheet(title: str, rows: Sequence[SheetRow]) -> bytes:
    """The sheet as a file."""
    file = io.BytesIO()
    contact_sheet(title, rows).save(file, "PNG")
    return file.getvalue()


def tile_of(file: bytes) -> Image.Image:
    """A picture's file scaled to a tile, sides in proportion, centred on the tile's colour."""
    with Image.open(io.BytesIO(file)) as opened:
        picture = opened.convert("RGB")
    scale = TILE_PX / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    tile = Image.new("RGB", (TILE_PX, TILE_PX), TILE)
    scaled = picture.resize((width, height), Image.Resampling.LANCZOS)
    tile.paste(scaled, ((TILE_PX - width) // 2, (TILE_PX - height) // 2))
    return tile


def _draw_picture(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    picture: Picture,
    tile: Image.Image | None,
) -> None:
    x, y = corner
    if tile is None:
        _draw_withheld(draw, corner, picture)
    else:
        sheet.paste(tile, corner)
    draw.rectangle((x, y, x + TILE_PX - 1, y + TILE_PX - 1), outline=_colour(picture), width=3)


def _draw_words(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: Picture, heading: str, shown: Sequence[ConceptScore]
) -> None:
    x, y = corner
    is_flagged_and_shown = _is_flagged(picture) and picture.verdict is Verdict.PASSED and not picture.blurred
    verdict = verdict_words(picture) + (", flagged" if is_flagged_and_shown else "")
    draw.text((x, y + 5), _cut(draw, heading, TILE_PX, 14), fill=INK, font=_font(14))
    draw.text((x, y + 23), _cut(draw, verdict, TILE_PX, 14), fill=_colour(picture), font=_font(14))
    for line, score in enumerate(shown):
        text = f"{score.name} {score.score:.3f} ({score.margin:+.3f})"
        ink = COLOURS[Verdict.BLOCKED] if score.flagged else FAINT
        draw.text((x, y + 42 + 17 * line), _cut(draw, text, TILE_PX, 12), fill=ink, font=_font(12))


def _of_plan(compared: ComparedPicture) -> str:
    is_measured = compared.index > 0 and compared.distance is not None
    return f"{compared.label}   {compared.distance:g} away" if is_measured else compared.label


def _is_flagged(picture: Picture) -> bool:
    return any(score.flagged for score in picture.concepts)


def _colour(picture: Picture) -> str:
    is_shown_all_the_same = picture.verdict is Verdict.PASSED and _is_flagged(picture)
    return FLAGGED if is_shown_all_the_same else COLOURS[picture.verdict]


def _draw_withheld(draw: ImageDraw.ImageDraw, corner: tuple[int, int], picture: Picture) -> None:
    x, y = corner
    draw.rectangle((x, y, x + TILE_PX - 1, y + TILE_PX - 1), fill=TILE)
    draw.text((x + 14, y + 16), "withheld", fill=INK, font=_font(20))
    reason = picture.reasons[0] if picture.reasons else picture.error.message if picture.error else "no reason given"
    for line, text in enumerate(textwrap.wrap(reason, 27, max_lines=7, placeholder=" ...")):
        draw.text((x + 14, y + 52 + 18 * line), text, fill=INK, font=_font(12))


def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size_px)


def _cut(draw: ImageDraw.ImageDraw, text: str, width_px: int, size_px: int) -> str:
    """The text on one line, or as much of it as fits."""
    text = " ".join(text.split())
    if draw.textlength(text, font=_font(size_px)) <= width_px:
        return text
    while text and draw.textlength(f"{text}...", font=_font(size_px)) > width_px:
        text = text[:-1]
    return f"{text}..."
