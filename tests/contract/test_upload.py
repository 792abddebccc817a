"""Uploads: whatever is sent is judged as what it shows, or refused, within bounds of memory."""

import contextlib
import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.request import OutputFormat
from contract.upload import MAX_VIEWS, UnusablePicture, decoded, look_at

RNG = np.random.default_rng(3)
COLOURS = Image.fromarray(RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8), "RGB")


def file_of(picture: Image.Image, picture_format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, picture_format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, *, depth: int = 8, colour: int = 0, data: bytes | None = None, more: bytes = b""
) -> bytes:
    """A PNG of zeros, built by hand, so that building one takes no more room than it has bytes."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    if data is None:
        deflate = zlib.compressobj(9)
        row = bytes(1 + (width * channels * depth + 7) // 8)
        data = b"".join(deflate.compress(row) for _ in range(height)) + deflate.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_picture_as_it_is_delivered_is_seen_pixel_by_pixel() -> None:
    [view] = decoded(file_of(COLOURS)).views
    np.testing.assert_array_equal(view, np.asarray(COLOURS))
    assert look_at(file_of(COLOURS, "WEBP", lossless=True)).format is OutputFormat.WEBP
    np.testing.assert_array_equal(decoded(file_of(COLOURS, "WEBP", lossless=True)).views[0], np.asarray(COLOURS))


@pytest.mark.parametrize("size", [(100, 40), (40, 100), (40, 320), (41, 40), (40, 40)])
def test_the_squares_cover_every_pixel(size: tuple[int, int]) -> None:
    width, height = size
    numbered = np.arange(width * height, dtype=np.uint32).reshape(height, width)
    pixels = np.stack([numbered & 255, numbered >> 8 & 255, numbered >> 16], axis=-1).astype(np.uint8)
    views = decoded(file_of(Image.fromarray(pixels, "RGB"))).views
    assert len(views) <= MAX_VIEWS
    assert {view.shape for view in views} == {(min(size), min(size), 3)}
    seen = {int(number) for view in views for number in (view.astype(np.uint32) @ [1, 256, 65536]).ravel()}
    assert len(seen) == width * height


def shown(content: bytes) -> list[list[int]]:
    """The colour in the middle of each view."""
    return [view[len(view) // 2, len(view) // 2].tolist() for view in decoded(content).views]


def grey_in_16_bits() -> bytes:
    return file_of(Image.fromarray(np.full((32, 32), 0x8000, np.uint16)))


def rgb_in_16_bits() -> bytes:
    row = b"\x00" + b"\x80\x00\x40\x00\x20\x00" * 32
    return png(32, 32, depth=16, colour=2, data=zlib.compress(row * 32))


def palette(transparent: int | None = None) -> bytes:
    picture = Image.new("P", (32, 32), 1)
    picture.putpalette([0, 0, 0, 10, 20, 30])
    return file_of(picture, **({} if transparent is None else {"transparency": transparent}))


def rotated() -> bytes:
    """Red on the left, and EXIF that asks for a quarter turn: upright, red is on top."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    return file_of(Image.fromarray(pixels, "RGB"), "PNG", exif=exif)


@pytest.mark.parametrize(
    ("content", "colours"),
    [
        (grey_in_16_bits(), [[128, 128, 128]]),
        (rgb_in_16_bits(), [[128, 64, 32]]),
        (file_of(Image.new("L", (32, 32), 77)), [[77, 77, 77]]),
        (file_of(Image.new("1", (32, 32), 1)), [[255, 255, 255]]),
        (palette(), [[10, 20, 30]]),
        (palette(transparent=1), [[255, 255, 255], [0, 0, 0]]),
        (file_of(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=100), [[254, 0, 0]]),
        (file_of(Image.new("RGBA", (32, 32), (10, 20, 30, 255))), [[10, 20, 30]]),
        (file_of(Image.new("RGBA", (32, 32), (200, 0, 0, 0))), [[255, 255, 255], [0, 0, 0]]),
        (file_of(Image.new("RGBA", (32, 32), (200, 0, 0, 128)), "WEBP", lossless=True), [[227, 127, 127], [100, 0, 0]]),
        (file_of(Image.new("LA", (32, 32), (90, 0))), [[255, 255, 255], [0, 0, 0]]),
        (rotated(), [[255, 0, 0], [0, 0, 0]]),
        (file_of(COLOURS) + b"PK\x03\x04<script>", None),  # a polyglot is judged as the picture it shows
    ],
    ids=[
        "grey16",
        "rgb16",
        "grey",
        "bits",
        "palette",
        "clear-palette",
        "cmyk",
        "opaque",
        "clear",
        "half",
        "grey-alpha",
        "exif",
        "polyglot",
    ],
)
def test_unusual_files_are_judged_as_what_they_show(content: bytes, colours: list[list[int]] | None) -> None:
    found = shown(content)
    assert found == shown(file_of(COLOURS)) if colours is None else np.abs(np.subtract(found, colours)).max() <= 1


def webp_of_size(width: int, height: int) -> bytes:
    """The header of an extended WebP, with a canvas of that size and nothing on it."""
    body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + bytes(4)
    body += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", len(body)) + body


def moving(picture_format: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green")]
    return file_of(frames[0], picture_format, save_all=True, append_images=frames[1:])


HUGE = png(13_000, 13_000, depth=1)
BOMBS = {
    "13,000 squared": (HUGE, "13000 × 13000 pixels, more than 16,000,000"),
    "16,001 kilopixels": (png(4000, 4001), "more than 16,000,000"),
    "a wide one": (png(2_000_000, 8), "at least 16|as long as wide"),
    "the largest that a header holds": (png(2**31 - 1, 2**31 - 1, data=b""), "more than"),
    "an empty canvas of WebP": (webp_of_size(16_000, 16_000), "more than"),
    "a small one": (file_of(COLOURS.resize((15, 40))), "at least 16"),
    "a narrow one": (file_of(Image.new("L", (20, 161))), "8 times as long"),
    "cut short, PNG": (file_of(COLOURS)[:-2000], "damaged or cut short"),
    "cut short, JPEG": (file_of(COLOURS, "JPEG")[:-300], "damaged or cut short"),
    "cut short, WebP": (file_of(COLOURS, "WEBP", lossless=True)[:-1000], "send the whole file"),
    "a header alone": (file_of(COLOURS)[:33], "cut short|whole file"),
    "nothing": (b"", "no PNG, JPEG or WebP"),
    "a text": (b"GIF89a and nothing", "no PNG, JPEG or WebP"),
    "a GIF": (file_of(COLOURS, "GIF"), "no PNG, JPEG or WebP"),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no PNG, JPEG or WebP"),
    "a page before a PNG": (b"<html>" + file_of(COLOURS), "no PNG, JPEG or WebP"),
    "a moving PNG": (moving("PNG"), "more than one frame"),
    "a moving WebP": (moving("WEBP"), "more than one frame"),
    "a bomb of text": (
        png(32, 32, more=chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(bytes(50_000_000), 9))),
        "send the whole file|damaged",
    ),
    "a bomb of a profile": (
        png(32, 32, more=chunk(b"iCCP", b"profile\x00\x00" + zlib.compress(bytes(50_000_000), 9))),
        "does not read as PNG",
    ),
    "too much data for its size": (png(32, 32, data=zlib.compress(bytes(50_000_000), 9)), None),
}


@pytest.mark.parametrize(("content", "told"), BOMBS.values(), ids=BOMBS)
def test_what_is_no_picture_to_judge_is_refused_by_name(content: bytes, told: str | None) -> None:
    if told is None:  # what is too much is never unpacked
        assert len(decoded(content).views) == 1
        return
    with pytest.raises(UnusablePicture, match=told):
        decoded(content)


def test_random_damage_is_refused_or_read_but_nothing_else() -> None:
    for picture_format in ("PNG", "JPEG", "WEBP"):
        whole = bytearray(file_of(COLOURS, picture_format))
        for _ in range(60):
            damaged = bytearray(whole)
            for place in RNG.integers(0, len(whole), 4):
                damaged[place] = RNG.integers(0, 256)
            with contextlib.suppress(UnusablePicture):
                assert all(view.dtype == np.uint8 for view in decoded(bytes(damaged)).views)


MEASURED = """
import resource, sys
from pathlib import Path
from contract.upload import UnusablePicture, decoded
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(peak())
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        decoded(file.read_bytes())
    except UnusablePicture:
        pass
print(peak())
decoded(Path(sys.argv[2]).read_bytes())
print(peak())
"""


def test_memory_stays_within_bounds_whatever_is_sent(tmp_path: Path) -> None:
    """Peaks of a process in MB: as it starts, when it has met all of them, and after the largest that is allowed."""
    assert len(HUGE) < 22_000
    bombs, largest = tmp_path / "bombs", tmp_path / "largest"
    bombs.mkdir()
    for index, (content, _) in enumerate(BOMBS.values()):
        (bombs / str(index)).write_bytes(content)
    largest.write_bytes(png(4000, 4000, depth=16, colour=6))
    command = [sys.executable, "-c", MEASURED, str(bombs), str(largest)]
    told = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    start, after_bombs, after_largest = map(int, told.split())
    assert after_bombs - start < 100, told
    assert after_largest - start < 450, told
