"""One denoising step of many rows: predict together, guide and correct each on its own, advance together."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batch import find_twins, gather, split
from workers.engine.model import EngineModel
from workers.engine.row import Row, failure_from
from workers.engine.schedule import advance
from workers.safety.protocol import Corrector

log = logging.getLogger(__name__)


@dataclass
class UnetWork:
    """What went through the UNet."""

    calls: int = 0
    rows: int = 0
    padding: int = 0  # more rows, which only filled a call up to a fixed size


def denoise(rows: Sequence[Row], model: EngineModel, most_unet_rows: int, work: UnetWork) -> None:
    """Move rows of one shape and the same swapped weights one step on, and count what it takes.

    A row that cannot go on gets a `failure`; the others do not notice.
    """
    find_twins(rows)
    model.weights.put(rows[0].swapped)
    for call in split(rows, most_unet_rows):
        for predicted, outputs in _predict(call, model, work):
            _advance(predicted, outputs)


def _predict(rows: list[Row], model: EngineModel, work: UnetWork) -> Iterator[tuple[list[Row], list[list[Tensor]]]]:
    """Rows that went through the UNet together, each with the outputs (4, h, w) of its branches.

    A call that fails, for want of memory or otherwise, is halved until the row that cannot run stands alone.

    Raises:
        torch.AcceleratorError: the device is lost; nothing in this process can run on it again.
    """
    try:
        batch = gather(rows)
        output = model.predict(batch.latents, batch.timesteps, batch.conditioning)[: batch.size]
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - isolated to the row it belongs to
        model.free_memory()
        if len(rows) == 1:
            rows[0].failure = failure_from(error)
            return
        log.warning("a UNet call of %d pictures failed (%s); halving it", len(rows), type(error).__name__)
        half = len(rows) // 2
        yield from _predict(rows[:half], model, work)
        yield from _predict(rows[half:], model, work)
    else:
        work.calls += 1
        work.rows += batch.size
        work.padding += len(batch.latents) - batch.size
        for row, computed in zip(rows, batch.computed, strict=True):
            row.unet_rows += computed
            row.neighbours += len(rows)
        outputs = output.unbind()
        yield rows, [[outputs[place] for place in places] for places in batch.places]


def _advance(rows: list[Row], outputs: list[list[Tensor]]) -> None:
    """Combine each row's branches with its own guidance, then take the sampler's step for all rows at once."""
    guided: list[Row] = []
    combined: list[Tensor] = []
    for row, branches in zip(rows, outputs, strict=True):
        try:
            combined.append(row.safety.guidance.combine(branches, row.step))
            guided.append(row)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - a method's failure is its row's own
            row.failure = failure_from(error)
    if guided:
        try:
            _step(guided, combined)
        except torch.AcceleratorError:
            raise
        except Exception as error:  # noqa: BLE001 - out of memory, most likely; the worker goes on
            for row in guided:
                row.failure = failure_from(error)


def _step(guided: list[Row], combined: list[Tensor]) -> None:
    """The sampler's step for all rows at once; a row that failed in its correction moves along and leaves later."""
    latents, clean = advance(
        sample=torch.stack([row.latents for row in guided]),
        output=torch.stack(combined),
        previous=torch.stack([row.clean for row in guided]),
        coefficients=torch.stack([row.coefficients for row in guided]),
        correct=lambda clean: _correct(guided, clean),
    )
    for row, row_latents, row_clean in zip(guided, latents, clean, strict=True):
        row.latents, row.clean, row.step = row_latents, row_clean, row.step + 1
        if row.is_finished:
            row.enter("turn")


def _correct(rows: list[Row], clean: Tensor) -> Tensor:
    """(rows, 4, h, w) → the same, corrected where a row has a trajectory method; one call for each corrector."""
    by_corrector: dict[Corrector, list[int]] = {}
    for i, row in enumerate(rows):
        if row.safety.trajectory is not None:
            by_corrector.setdefault(row.safety.trajectory.corrector, []).append(i)
    corrected = clean.clone() if by_corrector else clean
    for corrector, indices in by_corrector.items():
        for group, latents in _corrected_together(corrector, rows, indices, clean):
            corrected[group] = latents
    return corrected


def _corrected_together(
    corrector: Corrector, rows: list[Row], indices: list[int], clean: Tensor
) -> Iterator[tuple[list[int], Tensor]]:
    """Rows by index and their corrected latents; a group that fails is halved until the faulty row stands alone."""
    try:
        trajectories = [rows[i].safety.trajectory for i in indices]
        latents = corrector.correct(trajectories, clean[indices], [rows[i].step for i in indices])
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - a method's failure is its row's own
        if len(indices) == 1:
            rows[indices[0]].failure = failure_from(error)
            return
        half = len(indices) // 2
        yield from _corrected_together(corrector, rows, indices[:half], clean)
        yield from _corrected_together(corrector, rows, indices[half:], clean)
    else:
        yield indices, latents
