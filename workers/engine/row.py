"""A row: one picture in flight, with its own latents, step, schedule and safety state."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from workers.engine.picture import Failure, Outcome, PictureSpec, Progress
from workers.engine.schedule import Schedule
from workers.engine.text_attention import TextProjection
from workers.safety.protocol import RowSafety


@dataclass(eq=False)
class Row:
    """One picture in flight. Latents and clean latents are (4, h, w)."""

    spec: PictureSpec
    schedule: Schedule
    safety: RowSafety
    texts: Tensor  # (branches, tokens, columns), projected
    project_text: TextProjection
    latents: Tensor
    clean: Tensor  # of the step before; zeros at the first
    step: int = 0
    failure: Failure | None = None  # set once; the row leaves at the end of the step
    unet_rows: int = 0
    neighbours: int = 0  # pictures per UNet call, itself included, summed over steps
    admitted_at: float = field(default_factory=time.monotonic)

    @property
    def branches(self) -> int:
        """Conditionings of this row, hence rows of a UNet call."""
        return len(self.texts)

    @property
    def conditioning(self) -> Tensor:
        """(branches, tokens, columns) at the current step: the texts, with the prompt as its own method changes it."""
        if self.safety.prompt is None:
            return self.texts
        changed = self.texts.clone()
        changed[self.safety.guidance.prompt_branch] = self.project_text(self.safety.prompt.embedding(self.step))
        return changed

    @property
    def shape(self) -> torch.Size:
        """Of the latents; rows of one shape share UNet calls."""
        return self.latents.shape

    @property
    def is_finished(self) -> bool:
        """All steps are done; the picture is to be decoded and judged."""
        return self.step == len(self.schedule)

    @property
    def coefficients(self) -> Tensor:
        """(len(COLUMNS),): the current step's line of the schedule."""
        return self.schedule.table[self.step]

    @property
    def timestep(self) -> Tensor:
        """The current step's timestep, a scalar."""
        return self.schedule.timesteps[self.step]

    @property
    def progress(self) -> Progress:
        """How far the row is."""
        return Progress(self.spec.job_id, self.spec.index, self.step, len(self.schedule))

    def outcome(self, applied_output: dict[str, Any] | None = None, **judged: Any) -> Outcome:
        """What comes out: `pixels` and `scores` when judged, else the failure."""
        prompt, guidance, trajectory = self.safety.prompt, self.safety.guidance, self.safety.trajectory
        return Outcome(
            spec=self.spec,
            failure=self.failure,
            applied={
                "prompt": prompt.describe() if prompt else None,
                "weights": None,
                "guidance": guidance.describe(),
                "trajectory": trajectory.describe() if trajectory else None,
                "output": applied_output,
            },
            guidance=guidance.record(),
            trajectory=trajectory.record() if trajectory else None,
            inference_s=time.monotonic() - self.admitted_at,
            unet_rows=self.unet_rows,
            pictures_per_batch_mean=self.neighbours / max(self.step, 1),
            **judged,
        )


def failure_from(error: Exception) -> Failure:
    """What an exception that belongs to one picture is told as."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return Failure("out_of_memory", "the device's memory does not hold this picture; ask for a smaller one")
    if isinstance(error, FloatingPointError):
        return Failure("invalid_output", str(error))
    return Failure("row_failed", str(error) or "the picture could not be made")
