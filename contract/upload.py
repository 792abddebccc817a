"""Pictures that come from outside: their size is read before anything is decoded, then they are seen from all sides.

A detector looks at a square in the middle of what it is given. So an upload is shown to it as several views, of which
the worst counts: squares that cover all of it, and where parts of it are transparent, on white as well as on black.
"""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from typing import TYPE_CHECKING, Final, TypeAlias

from PIL import Image, ImageOps
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from contract.job import Upload
from contract.request import OutputFormat

if TYPE_CHECKING:  # the gateway, which imports this too, gets along without numpy until the first upload
    import numpy as np
    from numpy.typing import NDArray

MAX_PIXELS: Final = 16_000_000
MIN_SIDE_PX: Final = 16
MAX_RATIO: Final = 8  # of the longer side to the shorter
MAX_VIEWS: Final = 2 * MAX_RATIO

Pixels: TypeAlias = "NDArray[np.uint8]"  # (height, width, 3), RGB
_READERS: Final[dict[OutputFormat, type[ImageFile]]] = {
    OutputFormat.PNG: PngImageFile,
    OutputFormat.JPEG: JpegImageFile,
    OutputFormat.WEBP: WebPImageFile,
}


class UnusablePicture(ValueError):
    """Bytes that are no picture which can be judged; the text says why, and what to send instead."""


def look_at(content: bytes) -> Upload:
    """An upload by its header; nothing is decoded.

    Raises:
        UnusablePicture: no PNG, JPEG or WebP, too large, too small, too narrow, or moving.
    """
    picture_format = _format_of(content)
    if picture_format is OutputFormat.WEBP:
        _check_size(*_webp_size(content))  # its reader makes room for the whole picture at once
    opened = _opened(content, picture_format)
    _check_size(*opened.size)
    if getattr(opened, "is_animated", False):
        raise UnusablePicture("has more than one frame; send the frames one by one")
    width, height = opened.size
    return Upload(sha256=hashlib.sha256(content).hexdigest(), format=picture_format, width=width, height=height)


@dataclass(frozen=True)
class Decoded:
    """An upload, upright, in 8-bit RGB: itself, or, where it lets a background through, on white and on black."""

    flats: "tuple[Pixels, ...]"

    @property
    def views(self) -> "tuple[Pixels, ...]":
        """Every square that a detector is to look at, at most `MAX_VIEWS`; nothing is copied."""
        return tuple(view for flat in self.flats for view in _squares(flat))


def decoded(content: bytes) -> Decoded:
    """An upload's pixels.

    Raises:
        UnusablePicture: as `look_at`, and for what turns out to be damaged.
    """
    import numpy as np

    upload = look_at(content)
    try:
        with _opened(content, upload.format) as opened:
            picture = ImageOps.exif_transpose(_in_8_bits(opened))
    except UnusablePicture:
        raise
    except Exception as error:
        raise UnusablePicture("is damaged or cut short; send the whole file") from error
    return Decoded(tuple(np.asarray(flat) for flat in _without_transparency(picture)))


def _format_of(content: bytes) -> OutputFormat:
    if content.startswith(b"\x89PNG\r\n\x1a\n"):
        return OutputFormat.PNG
    if content.startswith(b"\xff\xd8\xff"):
        return OutputFormat.JPEG
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return OutputFormat.WEBP
    raise UnusablePicture("is no PNG, JPEG or WebP file; send one of these")


def _opened(content: bytes, picture_format: OutputFormat) -> ImageFile:
    try:
        return _READERS[picture_format](BytesIO(content))
    except Exception as error:
        raise UnusablePicture(f"does not read as {picture_format.name}; send the whole file") from error


def _webp_size(content: bytes) -> tuple[int, int]:
    """Width and height as a WebP's first chunk has them."""
    match content[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(content[24:27], "little"), 1 + int.from_bytes(content[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(content[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            return int.from_bytes(content[26:28], "little") & 0x3FFF, int.from_bytes(content[28:30], "little") & 0x3FFF
    raise UnusablePicture("does not read as WEBP; send the whole file")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UnusablePicture(f"has {width} × {height} pixels, more than {MAX_PIXELS:,}; send it smaller")
    if min(width, height) < MIN_SIDE_PX:
        raise UnusablePicture(f"has {width} × {height} pixels; each side must have at least {MIN_SIDE_PX}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise UnusablePicture(f"is more than {MAX_RATIO} times as long as wide; send it in parts")


def _in_8_bits(opened: ImageFile) -> Image.Image:
    """Decoded. Grey in 16 or 32 bits would be cut off at 255 by a mere conversion."""
    if opened.mode.startswith("I"):
        import numpy as np

        grey = np.asarray(opened).astype(np.int64) >> 8
        return Image.fromarray(grey.clip(0, 255).astype(np.uint8), "L")
    opened.load()
    return opened


def _without_transparency(picture: Image.Image) -> list[Image.Image]:
    """RGB: itself, or, where it lets a background through, on white and on black."""
    if not picture.has_transparency_data:
        return [picture.convert("RGB")]
    layered = picture.convert("RGBA")
    if layered.getchannel("A").getextrema()[0] == 255:
        return [layered.convert("RGB")]
    flat = []
    for background in ("white", "black"):
        ground = Image.new("RGB", layered.size, background)
        ground.paste(layered, mask=layered.getchannel("A"))
        flat.append(ground)
    return flat


def _squares(pixels: Pixels) -> list[Pixels]:
    """Squares of the shorter side, evenly spread over the longer one, that cover all of it."""
    height, width = pixels.shape[:2]
    side, count = min(height, width), ceil(max(height, width) / min(height, width))
    starts = [round(i * (max(height, width) - side) / max(1, count - 1)) for i in range(count)]
    if width >= height:
        return [pixels[:, start : start + side] for start in starts]
    return [pixels[start : start + side] for start in starts]
