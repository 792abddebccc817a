"""A row: one picture in flight, with its own latents, step, schedule and safety state."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor

from workers.engine.picture import Failure, Outcome, PictureSpec, Progress, Stage
from workers.engine.schedule import Schedule
from workers.engine.text_attention import TextProjection
from workers.engine.weights import NOTHING_SWAPPED
from workers.safety.protocol import RowSafety

Input: TypeAlias = tuple[object, str, str]  # a row's `latents_id`, a text, what a prompt method makes of the text


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
    latents_id: object = field(default_factory=object)  # the same for rows of a group whose latents are the same
    entered: list[tuple[str, float]] = field(  # stages, in order, and when; epoch seconds
        default_factory=lambda: [("text", time.time())]
    )

    @property
    def branches(self) -> tuple[int, ...]:
        """Which of the texts the current step needs."""
        return self.safety.guidance.branches(self.step)

    @property
    def inputs(self) -> list[Input]:
        """One for each of `branches`. Rows of UNet calls with the same input have the same output."""
        guidance = self.safety.guidance
        changed = guidance.prompt_branch if self._prompt_is_changed else None
        return [
            (self.latents_id, guidance.texts[branch], self._prompt_change if branch == changed else "")
            for branch in self.branches
        ]

    @property
    def conditioning(self) -> list[Tensor]:
        """One (tokens, columns) for each of `branches`: its text, the prompt's as its own method changes it."""
        conditioning = [self.texts[branch] for branch in self.branches]
        if self.safety.prompt is not None and self._prompt_is_changed:
            place = self.branches.index(self.safety.guidance.prompt_branch)
            conditioning[place] = self.project_text(self.safety.prompt.embedding(self.step))
        return conditioning

    @property
    def _prompt_is_changed(self) -> bool:
        return self.safety.prompt is not None and self.safety.prompt.is_acting(self.step)

    @cached_property
    def _prompt_change(self) -> str:
        return repr(self.safety.prompt.describe()) if self.safety.prompt else ""

    @property
    def shape(self) -> torch.Size:
        """Of the latents; rows of one shape share UNet calls."""
        return self.latents.shape

    @property
    def swapped(self) -> Mapping[str, Tensor]:
        """Parameters of the UNet that this row's weights have of their own; rows of the same object share calls."""
        return self.spec.weights.swapped if self.spec.weights else NOTHING_SWAPPED

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

    def enter(self, stage: str) -> None:
        """The row goes from its stage into another."""
        self.entered.append((stage, time.time()))

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages so far; the last one ends now."""
        ends = [*(at for _, at in self.entered[1:]), time.time()]
        return tuple(Stage(name, began, ended) for (name, began), ended in zip(self.entered, ends, strict=True))

    def outcome(self, applied_output: dict[str, Any] | None = None, **judged: Any) -> Outcome:
        """What comes out: `pixels` and `scores` when judged, else the failure."""
        prompt, guidance, trajectory = self.safety.prompt, self.safety.guidance, self.safety.trajectory
        stages = self.stages
        return Outcome(
            spec=self.spec,
            failure=self.failure,
            applied={
                "prompt": prompt.describe() if prompt else None,
                "weights": self.spec.weights.description if self.spec.weights else None,
                "guidance": guidance.describe(),
                "trajectory": trajectory.describe() if trajectory else None,
                "output": applied_output,
            },
            guidance=guidance.record(),
            trajectory=trajectory.record() if trajectory else None,
            inference_s=sum(stage.seconds for stage in stages),
            stages=stages,
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
