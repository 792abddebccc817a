"""Rows into UNet calls: which rows go together, and the tensors of one call, padded to a fixed size.

Fixed sizes keep compiled kernels few and make a row's result independent of how many neighbours it has in its bucket.

Rows of one group begin alike and part when their methods first differ. For as long as their latents are the same bit
for bit, a text is run through the UNet once for all of them. No method takes part in this: what is alike is found by
looking, at every step, so a row's picture is the same with and without its group.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.row import Input, Row

BUCKETS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@dataclass(frozen=True)
class Batch:
    """One UNet call. Only the first `size` rows are real; the rest repeat the last one."""

    size: int
    latents: Tensor  # (bucket, 4, h, w), scaled as the sampler asks
    timesteps: Tensor  # (bucket,)
    conditioning: Tensor  # (bucket, tokens, columns), projected
    places: list[list[int]]  # of each picture, where the output of each of its branches lies
    computed: list[int]  # of each picture, how many UNet rows were not there for a picture before it


def bucket_for(size: int) -> int:
    """The smallest bucket that holds so many UNet rows; beyond the largest, the size itself."""
    return next((bucket for bucket in BUCKETS if bucket >= size), size)


def find_twins(rows: Sequence[Row]) -> None:
    """Give rows of one group and step with the same latents, bit for bit, one `latents_id`; the others their own."""
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        if row.spec.group is not None:
            course = row.spec.scheduler, row.spec.steps, row.step, row.spec.plan.weights
            groups.setdefault((row.spec.group, course), []).append(row)
    for members in groups.values():
        latents = torch.stack([row.latents for row in members])
        is_same = (latents[:, None] == latents[None]).flatten(start_dim=2).all(dim=2).tolist()  # one read of the device
        for i, row in enumerate(members):
            row.latents_id = next((members[j].latents_id for j in range(i) if is_same[i][j]), object())


def split(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Rows in order, cut into calls of at most `most` UNet rows; a row with more branches than that goes alone.

    Twins go together, also where that leaves a call emptier, unless there are more of them than one call holds.
    """
    families: dict[object, list[Row]] = {}
    for row in rows:
        families.setdefault(row.latents_id, []).append(row)
    call: list[Row] = []
    held: set[Input] = set()  # what the call computes
    for family in families.values():
        inputs = [set(row.inputs) for row in family]
        if call and len(held.union(*inputs)) > most:
            yield call
            call, held = [], set()
        for row, own in zip(family, inputs, strict=True):
            if call and len(held | own) > most:
                yield call
                call, held = [], set()
            call.append(row)
            held |= own
    if call:
        yield call


def gather(rows: Sequence[Row]) -> Batch:
    """Every branch of every row, in order, each input once, for one UNet call."""
    place_of: dict[Input, int] = {}
    pictures: list[int] = []  # of each UNet row
    conditioning: list[Tensor] = []
    inputs = [row.inputs for row in rows]
    for picture, row in enumerate(rows):
        for each, text in zip(inputs[picture], row.conditioning, strict=True):
            if each not in place_of:
                place_of[each] = len(place_of)
                pictures.append(picture)
                conditioning.append(text)
    size = len(pictures)
    padding = bucket_for(size) - size
    latents = torch.stack([row.latents for row in rows])
    input_scale = torch.stack([row.coefficients[0] for row in rows]).to(latents)
    timesteps = torch.stack([row.timestep for row in rows]).to(latents.device)
    index = torch.tensor(pictures + pictures[-1:] * padding, device=latents.device)
    return Batch(
        size=size,
        latents=(latents * input_scale[:, None, None, None])[index],
        timesteps=timesteps[index],
        conditioning=torch.stack(conditioning + conditioning[-1:] * padding),
        places=[[place_of[each] for each in own] for own in inputs],
        computed=[pictures.count(picture) for picture in range(len(rows))],
    )
