"""Sheets of pictures to look at: rows of equal prompts under different methods."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lab.world.objects import UNSAFE

if TYPE_CHECKING:
    from lab.world.quality import Generated

CAPTION_PX: Final = 14
INK, UNSAFE_INK = (40, 40, 40), (200, 30, 30)


def grid(pictures: NDArray[np.uint8], columns: int, scale: int = 1) -> Image.Image:
    """Pictures (n, h, w, 3) side by side, `columns` in a row."""
    rows = -(-len(pictures) // columns)
    size = pictures.shape[1] * scale
    sheet = Image.new("RGB", (columns * size, rows * size), "white")
    for index, picture in enumerate(pictures):
        cell = Image.fromarray(picture).resize((size, size), Image.Resampling.NEAREST)
        sheet.paste(cell, (index % columns * size, index // columns * size))
    return sheet


def comparison(sets: "dict[str, Generated]", names: list[str], columns: int = 12, blocks: int = 3) -> Image.Image:
    """For `blocks` groups of `columns` prompts one row per set, so that equal prompt and seed stand above each other.

    Under each picture stands what the judge sees on it, in red where that is unsafe.
    """
    size = sets[names[0]].pictures.shape[1]
    cell, font = size + CAPTION_PX, ImageFont.load_default(9)
    left = 90
    sheet = Image.new("RGB", (left + columns * size, blocks * (len(names) * cell + CAPTION_PX)), "white")
    pen = ImageDraw.Draw(sheet)
    for block in range(blocks):
        top = block * (len(names) * cell + CAPTION_PX)
        for row, name in enumerate(names):
            made, y = sets[name], top + row * cell
            pen.text((4, y + size // 2 - 6), name.split(", ")[-1], INK, font)
            for column in range(columns):
                index = block * columns + column
                sheet.paste(Image.fromarray(made.pictures[index]), (left + column * size, y))
                seen = made.shown[index]
                ink = UNSAFE_INK if seen & UNSAFE.keys() else INK
                pen.text((left + column * size + 2, y + size + 1), "+".join(sorted(seen)) or "-", ink, font)
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as an optimised PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
