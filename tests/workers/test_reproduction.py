"""Differences of pictures, as a reproduction states them."""

import numpy as np

from workers.reproduction import differences


def test_differences_are_those_of_the_pixels() -> None:
    old = np.full((4, 5, 3), 100, np.uint8)
    new = old.copy()
    assert differences(old, new) == {
        "same_pixels": True,
        "max_difference": 0,
        "mean_difference": 0.0,
        "different_share": 0.0,
    }
    new[0, 0, 1], new[1, 1] = 90, (255, 0, 100)
    assert differences(old, new) == {
        "same_pixels": False,
        "max_difference": 155,
        "mean_difference": round((10 + 155 + 100) / 60, 4),
        "different_share": 0.1,
    }
