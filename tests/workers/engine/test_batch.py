"""Which rows share a UNet call, and what the call looks like."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from workers.engine.batch import bucket_for, gather, split


def row(branches: int, value: float = 0.0, latents_id: object = None) -> Any:
    """What `gather` reads of a row: its latents, step and texts."""
    latents_id = latents_id or object()
    return SimpleNamespace(
        latents_id=latents_id,
        inputs=[(latents_id, f"text {branch}", "") for branch in range(branches)],
        latents=torch.full((4, 2, 2), value),
        conditioning=list(torch.full((branches, 3, 5), value)),
        coefficients=torch.tensor([0.5]),
        timestep=torch.tensor(value * 10),
    )


@pytest.mark.parametrize(("size", "bucket"), [(1, 1), (3, 4), (5, 6), (9, 12), (32, 32), (33, 48), (500, 500)])
def test_the_bucket_is_the_smallest_that_holds_the_rows(size: int, bucket: int) -> None:
    assert bucket_for(size) == bucket


def test_rows_are_cut_in_order_into_groups_that_fit() -> None:
    groups = split([row(2), row(3), row(2), row(9), row(1)], 6)
    assert [[len(one.inputs) for one in group] for group in groups] == [[2, 3], [2], [9], [1]]


def test_padding_repeats_the_last_row_and_is_no_part_of_the_size() -> None:
    batch = gather([row(2, 1.0), row(3, 2.0)])
    assert batch.size == 5
    assert batch.latents[:, 0, 0, 0].tolist() == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0]
    assert batch.timesteps.tolist() == [10, 10, 20, 20, 20, 20]
    assert batch.conditioning[:, 0, 0].tolist() == [1, 1, 2, 2, 2, 2]
    assert batch.places == [[0, 1], [2, 3, 4]]
    assert batch.computed == [2, 3]


def test_a_text_is_computed_once_for_rows_with_the_same_latents() -> None:
    alike = object()
    batch = gather([row(2, 1.0, alike), row(1, 2.0), row(3, 1.0, alike)])
    assert batch.size == 4
    assert batch.latents[:4, 0, 0, 0].tolist() == [0.5, 0.5, 1.0, 0.5]
    assert batch.places == [[0, 1], [2], [0, 1, 3]]
    assert batch.computed == [2, 1, 1]


def test_rows_with_the_same_latents_go_together_as_long_as_a_call_holds_them() -> None:
    alike = object()
    first, stranger, second, third = (
        row(2, latents_id=alike),
        row(3),
        row(3, latents_id=alike),
        row(4, latents_id=alike),
    )
    assert list(split([first, stranger, second], 5)) == [[first, second], [stranger]]
    assert list(split([stranger, first, second], 5)) == [[stranger], [first, second]]
    assert list(split([first, second, third], 3)) == [[first, second], [third]]
