import io
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from contract.request import GenerateRequest
from contract.result import Discarded, JobView, Picture, Status, verdict_words
from contract.verdict import Verdict
from seemly.display import verdict_table, why_unmade
from service import sheet
from service.sheet import SheetRow, contact_sheet, tile_of
from tests.service import parts

JOB = parts.some_job(seeds=(41, 42))


def png(colour: str, size: tuple[int, int] = (64, 64)) -> Image.Image:
    """The tile of a picture in one colour, by way of its file."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return tile_of(file.getvalue())


def view(*pictures: Any) -> JobView:
    return JobView(id=JOB.id, status=Status.PARTIAL, created_at=JOB.created_at, images=pictures)


def centre(drawn: Image.Image, column: int, row: int = 0) -> tuple[int, ...]:
    row_px = sheet.HEADING_PX + sheet.TILE_PX + sheet.LABEL_PX + sheet.GAP_PX
    x = sheet.GAP_PX + column * (sheet.TILE_PX + sheet.GAP_PX) + sheet.TILE_PX // 2
    return drawn.getpixel((x, sheet.TITLE_PX + row * row_px + sheet.HEADING_PX + sheet.TILE_PX * 7 // 8))


def test_a_picture_stands_in_its_tile_and_a_withheld_one_is_a_plain_tile() -> None:
    withheld = parts.picture(JOB, 1, Verdict.BLOCKED, reasons=("death: 'skull' scored 0.4 by clip-concepts",))
    row = SheetRow("under the filter", view(parts.picture(JOB, 0), withheld), {0: png("#102030")})
    drawn = contact_sheet("a pirate scene", [row])
    assert centre(drawn, 0) == (0x10, 0x20, 0x30)
    assert centre(drawn, 1) == (0xDC, 0xDA, 0xD4)


def test_the_reason_is_written_on_a_withheld_tile() -> None:
    def drawn(reason: str) -> Image.Image:
        picture = parts.picture(JOB, 0, Verdict.BLOCKED, reasons=(reason,))
        return contact_sheet("a pirate scene", [SheetRow("filter", view(picture), {})])

    assert drawn("death: skull").tobytes() != drawn("weapon: sword").tobytes()


def test_a_blurred_picture_and_one_made_again_say_so() -> None:
    flagged = (parts.score(0.3),)
    blurred = parts.picture(JOB, 0, concepts=flagged, blurred=True)
    earlier = Discarded(seed=42, concepts=flagged, reasons=("weapon",))
    again = parts.picture(JOB, 1, seed=2**53 - 1, discarded=(earlier, earlier))
    assert [verdict_words(picture) for picture in (blurred, again)] == ["passed, blurred", "passed, try 3"]

    console = Console(width=160, record=True, file=io.StringIO())
    console.print(verdict_table([("filter:blur", view(blurred, again))]))
    told = console.export_text()
    assert "passed, blurred" in told
    assert "passed, try 3" in told

    def drawn(picture: Picture) -> bytes:
        return contact_sheet("a pirate scene", [SheetRow("filter", view(picture), {0: png("red")})]).tobytes()

    assert drawn(blurred) != drawn(blurred.model_copy(update={"blurred": False}))


def test_why_nothing_was_made_is_told_once_and_what_scores_tell_is_not_told_again() -> None:
    why = "prompt: the detector prompt-concepts scored 'weapon' at 0.5129, over its threshold of 0.4000 (margin +0.113)"
    unmade = [parts.picture(JOB, index, Verdict.BLOCKED, concepts=(), reasons=(why,)) for index in (0, 1)]
    assert why_unmade(view(*unmade)) == (why,)
    assert why_unmade(view(parts.picture(JOB, 0, Verdict.BLOCKED, concepts=(parts.score(0.3),), reasons=(why,)))) == ()


def test_each_job_has_its_row_and_the_widest_sets_the_width() -> None:
    one = SheetRow("one", view(parts.picture(JOB, 0)), {0: png("red")})
    two = SheetRow("two", view(parts.picture(JOB, 0), parts.picture(JOB, 1)), {0: png("lime"), 1: png("blue")})
    drawn = contact_sheet("a pirate scene", [one, two])
    assert drawn.width == sheet.GAP_PX + 2 * (sheet.TILE_PX + sheet.GAP_PX)
    assert [centre(drawn, 0, 0), centre(drawn, 0, 1), centre(drawn, 1, 1)] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_long_titles_and_odd_shapes_fit() -> None:
    row = SheetRow("title " * 60, view(parts.picture(JOB, 0)), {0: png("red", (128, 16))})
    drawn = contact_sheet("prompt " * 300, [row])
    assert drawn.width == sheet.GAP_PX + sheet.TILE_PX + sheet.GAP_PX


@pytest.mark.parametrize("written", ["кошка 猫 🐈", "two\nlines", "\x02 \U0008bb09 \t"])
def test_a_prompt_in_any_script_can_be_drawn(written: str) -> None:
    prompt = GenerateRequest(prompt=written).prompt
    contact_sheet(prompt, [SheetRow(prompt, view(parts.picture(JOB, 0)), {0: png("red")})])


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(ValueError, match="no pictures"):
        contact_sheet("a pirate scene", [SheetRow("filter", view(), {})])
