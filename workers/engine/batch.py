"""Rows into UNet calls: which rows go together, and the tensors of one call, padded to a fixed size.

Fixed sizes keep compiled kernels few and make a row's result independent of how many neighbours it has in its bucket.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.row import Row

BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Batch:
    """One UNet call. Only the first `size` rows are real; the rest repeat the last one."""

    size: int
    latents: Tensor  # (bucket, 4, h, w), scaled as the sampler asks
    timesteps: Tensor  # (bucket,)
    conditioning: Tensor  # (bucket, tokens, columns), projected


def bucket_for(size: int) -> int:
    """The smallest bucket that holds so many UNet rows; beyond the largest, the size itself."""
    return next((bucket for bucket in BUCKETS if bucket >= size), size)


def split(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Rows in order, cut into groups of at most `most` UNet rows; a row with more branches than that goes alone."""
    group: list[Row] = []
    size = 0
    for row in rows:
        if group and size + row.branches > most:
            yield group
            group, size = [], 0
        group.append(row)
        size += row.branches
    if group:
        yield group


def gather(rows: Sequence[Row]) -> Batch:
    """Every branch of every row, in order, for one UNet call."""
    pictures = [picture for picture, row in enumerate(rows) for _ in range(row.branches)]  # of each UNet row
    size = len(pictures)
    padding = bucket_for(size) - size
    latents = torch.stack([row.latents for row in rows])
    input_scale = torch.stack([row.coefficients[0] for row in rows]).to(latents)
    timesteps = torch.stack([row.timestep for row in rows]).to(latents.device)
    index = torch.tensor(pictures + pictures[-1:] * padding, device=latents.device)
    conditioning = [row.conditioning for row in rows]
    return Batch(
        size=size,
        latents=(latents * input_scale[:, None, None, None])[index],
        timesteps=timesteps[index],
        conditioning=torch.cat(conditioning + [conditioning[-1][-1:]] * padding),
    )
