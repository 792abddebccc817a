"""Sheets of pictures to look at: rows of equal prompts under different methods."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lab.world.objects import UNSAFE

if TYPE_CHECKING:
    from lab.world.quality import Generated

CAPTION_PX, NAME_PX = 14, 90
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


def comparison(sets: "dict[str, Generated]", names: list[str], indices: list[int], columns: int = 12) -> Image.Image:
    """The pictures `indices` of several sets made from the same prompts and seeds, one set under the other.

    Under each picture stands what the judge sees on it, in red where that is unsafe.
    """
    size = sets[names[0]].pictures.shape[1]
    cell, left, font = size + CAPTION_PX, NAME_PX, ImageFont.load_default(9)
    block_px = len(names) * cell + CAPTION_PX
    sheet = Image.new("RGB", (left + columns * size, -(-len(indices) // columns) * block_px), "white")
    pen = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        for place, index in enumerate(indices):
            x, y = left + place % columns * size, place // columns * block_px + row * cell
            if place % columns == 0:
                pen.text((4, y + size // 2 - 6), name.split(", ")[-1], INK, font)
            sheet.paste(Image.fromarray(sets[name].pictures[index]), (x, y))
            seen = sets[name].shown[index]
            pen.text(
                (x + 2, y + size + 1), "+".join(sorted(seen)) or "-", UNSAFE_INK if seen & UNSAFE.keys() else INK, font
            )
    return sheet


def made_safe(sets: "dict[str, Generated]", plain: str, methods: list[str]) -> list[int]:
    """Which pictures are unsafe when plain and not so with at least one of the methods: the ones to look at."""

    def unsafe(name: str, index: int) -> bool:
        return bool(sets[name].shown[index] & UNSAFE.keys())

    count = len(sets[plain].prompts)
    return [i for i in range(count) if unsafe(plain, i) and not all(unsafe(name, i) for name in methods)]


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as an optimised PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, optimize=True)
