"""Writing on a figure: words as they were sent, never read as formulas, in letters that the font has."""

import unicodedata
from bisect import bisect_left
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.font_manager import FontProperties
from matplotlib.ft2font import FT2Font

DPI = 100
_FONT = Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")  # comes with matplotlib


def font(size_px: float) -> FontProperties:
    """The one font of all figures."""
    return FontProperties(fname=_FONT, size=size_px * 72 / DPI)


def legible(text: str) -> str:
    """On one line, and what the font lacks told as its code: a cat's face becomes `\\U0001f431`."""
    return "".join(
        char if _is_drawn(char) else char.encode("unicode_escape").decode() for char in " ".join(text.split())
    )


def cut(text: str, width_px: float, size_px: float) -> str:
    """Legible, and as much of it as fits."""
    renderer = RendererAgg(1, 1, DPI)
    whole = legible(text)

    def fits(shown: str) -> bool:
        return renderer.get_text_width_height_descent(shown, font(size_px), ismath=False)[0] <= width_px

    most = min(len(whole), int(width_px))  # no letter that is read is narrower than a pixel
    if most == len(whole) and fits(whole):
        return whole
    length = bisect_left(range(most), True, key=lambda end: not fits(f"{whole[:end]}…"))
    return f"{whole[: length - 1].rstrip()}…"


def _is_drawn(char: str) -> bool:
    return char == " " or (ord(char) in _letters() and not unicodedata.category(char).startswith("C"))


@cache
def _letters() -> frozenset[int]:
    return frozenset(FT2Font(str(_FONT)).get_charmap())
