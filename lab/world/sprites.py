"""The sprite atlas: every object's glyph rendered once and kept, so that drawing needs no font and never varies."""

from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from lab.world.objects import GLYPHS, OBJECTS

ATLAS: Final = Path(__file__).with_name("sprites.png")
ATLAS_SPRITE_PX: Final = 96
COLUMNS: Final = 8
FONT_PX: Final = 109  # the one bitmap size inside Noto Color Emoji


def render_atlas(font_path: Path) -> Image.Image:
    """All glyphs of the world on one transparent sheet, `COLUMNS` wide, in the order of `OBJECTS`."""
    font = ImageFont.truetype(str(font_path), FONT_PX)
    rows = -(-len(OBJECTS) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * ATLAS_SPRITE_PX, rows * ATLAS_SPRITE_PX))
    for index, name in enumerate(OBJECTS):
        sprite = _render_glyph(GLYPHS[name], font)
        atlas.paste(sprite, (index % COLUMNS * ATLAS_SPRITE_PX, index // COLUMNS * ATLAS_SPRITE_PX))
    return atlas


def _render_glyph(glyph: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    canvas = Image.new("RGBA", (2 * FONT_PX, 2 * FONT_PX))
    ImageDraw.Draw(canvas).text((FONT_PX // 4, FONT_PX // 4), glyph, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise ValueError(f"the font draws nothing for U+{ord(glyph):04X}; use Noto Color Emoji")
    left, top, right, bottom = box
    side = max(right - left, bottom - top)
    square = Image.new("RGBA", (side, side))
    square.paste(canvas.crop(box), ((side - right + left) // 2, (side - bottom + top) // 2))
    return square.resize((ATLAS_SPRITE_PX, ATLAS_SPRITE_PX), Image.Resampling.LANCZOS)


@cache
def sprite(name: str, size_px: int) -> NDArray[np.float32]:
    """One object's sprite as read-only RGBA in 0..1, shape (size_px, size_px, 4)."""
    index = OBJECTS.index(name)
    left, top = index % COLUMNS * ATLAS_SPRITE_PX, index // COLUMNS * ATLAS_SPRITE_PX
    with Image.open(ATLAS) as atlas:
        cell = atlas.convert("RGBA").crop((left, top, left + ATLAS_SPRITE_PX, top + ATLAS_SPRITE_PX))
    pixels = np.asarray(cell.resize((size_px, size_px), Image.Resampling.LANCZOS), dtype=np.float32) / np.float32(255)
    pixels.flags.writeable = False
    return pixels
