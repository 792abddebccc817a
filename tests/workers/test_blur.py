"""What a blurred picture still holds."""

import numpy as np
import pytest

from workers.blur import CELLS, LEVELS, blurred

RNG = np.random.default_rng(0)


def noise(height: int, width: int) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 64), (1024, 1024), (16, 2048), (2048, 16), (128, 64)])
def test_size_and_type_stay(height: int, width: int) -> None:
    picture = blurred(noise(height, width))
    assert (picture.shape, picture.dtype) == ((height, width, 3), np.uint8)


@pytest.mark.parametrize("side", [64, 1024])
def test_all_detail_within_a_cell_is_gone(side: int) -> None:
    """Pictures that differ in every pixel, but not in the mean of a cell, become one and the same."""
    picture = noise(side, side)
    cell = side // CELLS
    moved = picture.copy()
    for top in range(0, side, cell):
        for left in range(0, side, cell):
            block = picture[top : top + cell, left : left + cell].reshape(-1, 3)
            moved[top : top + cell, left : left + cell] = RNG.permutation(block).reshape(cell, cell, 3)
    assert (picture != moved).mean() > 0.9
    assert (blurred(picture) == blurred(moved)).all()


@pytest.mark.parametrize("side", [64, 1024])
def test_no_more_pictures_come_out_than_there_are_coarse_colours(side: int) -> None:
    """Grey in steps of one: as many results as levels."""
    results = {blurred(np.full((side, side, 3), grey, dtype=np.uint8)).tobytes() for grey in range(256)}
    assert len(results) == LEVELS


def test_a_large_picture_is_blurred_as_much_as_a_small_one() -> None:
    small = noise(64, 64)
    large = small.repeat(16, axis=0).repeat(16, axis=1)
    shrunk = blurred(large)[8::16, 8::16].astype(int)
    assert np.abs(shrunk - blurred(small)).max() <= 8
