"""What the engine knows of safety: a guidance, a trajectory and a detector, each behind a protocol.

Guidance and trajectory are built once per row, so their state is private by construction.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.filter import Filter
from contract.plan import SafetyPlan
from contract.steps import GuidanceRecord, PerStep, TrajectoryRecord
from contract.verdict import ConceptScore


@dataclass(frozen=True)
class PromptTokens:
    """A prompt as a prompt method sees it.

    embedding: (tokens, dim), the text encoder's last hidden state; word i is token i + 1
    masked: (words, dim), the pooled embedding with one word masked at a time
    """

    embedding: Tensor
    masked: Tensor


class PromptReader(Protocol):
    """The model's own text encoder."""

    def read(self, text: str) -> PromptTokens:
        """A prompt, whole and with each of its words masked."""
        ...

    def pooled(self, text: str) -> Tensor:
        """A text's pooled embedding, (dim,)."""
        ...


class PromptMethod(Protocol):
    """A change of the prompt's own conditioning. Two for one prompt whose descriptions are the same change it alike."""

    def is_acting(self, step: int) -> bool:
        """Whether the prompt's conditioning is another than its own at a step."""
        ...

    def embedding(self, step: int) -> Tensor:
        """The prompt's conditioning at a step, (tokens, dim)."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs, with every parameter resolved, for `safety.applied`."""
        ...


class Guidance(Protocol):
    """How the noise predictions of one row's branches become one."""

    texts: tuple[str, ...]  # the conditioning of every branch
    prompt_branch: int  # which of them is the prompt

    def branches(self, step: int) -> tuple[int, ...]:
        """Which of the texts this step needs: one whose output could not change the picture is left out."""
        ...

    def combine(self, output: Sequence[Tensor], step: int) -> Tensor:
        """The output for each of `branches(step)`, (4, h, w) each → (4, h, w); `step` counts UNet calls from 0."""
        ...

    def describe(self) -> dict[str, Any]:
        """What runs, with every parameter resolved, for `safety.applied`."""
        ...

    def record(self) -> GuidanceRecord | None:
        """How strong the push was at each step, None for a guidance without one."""
        ...


class StepRecord:
    """How strong a guidance's push was at each step. Kept as tensors: reading them at every step would stall a GPU."""

    def __init__(self) -> None:
        self._strengths: list[Tensor | None] = []
        self._shares: list[Tensor | None] = []

    def add(self, push: Tensor | None, where: Tensor | None) -> None:
        """One step: the push, or None when there was none, and the elements that were over the mask."""
        self._strengths.append(None if push is None else push.abs().mean())
        self._shares.append(None if push is None or where is None else where.to(push.dtype).mean())

    def read(self) -> GuidanceRecord:
        """All steps so far, off the device in one go."""
        return GuidanceRecord(push=_read(self._strengths, digits=6), share=_read(self._shares, digits=4))


def _read(values: Sequence[Tensor | None], digits: int) -> PerStep:
    present = [value for value in values if value is not None]
    numbers = iter(torch.stack(present).tolist() if present else [])
    return rounded([0.0 if value is None else next(numbers) for value in values], digits)


def rounded(numbers: Iterable[float], digits: int) -> PerStep:
    """As a record tells them: None for what is not finite."""
    return tuple(round(number, digits) if math.isfinite(number) else None for number in numbers)


class Corrector(Protocol):
    """Corrects the predicted clean latents of many rows at once; one per model, without state of any row."""

    def correct(self, rows: Sequence[Any], clean: Tensor, steps: Sequence[int]) -> Tensor:
        """Trajectories of this corrector, (rows, 4, h, w), each row's step → (rows, 4, h, w)."""
        ...


class Trajectory(Protocol):
    """One row's correction of its predicted clean latent; the work is its corrector's, shared with other rows."""

    corrector: Corrector

    def describe(self) -> dict[str, Any]:
        """What runs, with every parameter resolved, for `safety.applied`."""
        ...

    def record(self) -> TrajectoryRecord:
        """What happened at each step so far, for the picture's `trajectory`."""
        ...


@dataclass(frozen=True)
class RowSafety:
    """The methods that act on one row while it is denoised."""

    guidance: Guidance
    prompt: PromptMethod | None = None
    trajectory: Trajectory | None = None


@dataclass(frozen=True)
class Conditioning:
    """What a guidance is built from."""

    prompt: str
    negative_prompt: str  # "" is the empty prompt
    guidance_scale: float
    steps: int


BuildRowSafety = Callable[[SafetyPlan, Conditioning], RowSafety]


Pictures = NDArray[np.uint8] | Sequence[NDArray[np.uint8]]  # (pictures, height, width, 3), or of several sizes; RGB


@dataclass(frozen=True)
class ReadText:
    """A text of a request, and where it stood."""

    field: str
    text: str


class DetectorError(RuntimeError):
    """A detector could not score a picture or a prompt; what was not scored must be withheld."""


class Detector(Protocol):
    """Scores finished pictures. Raises when it cannot score; never leaves a picture out."""

    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        """Pictures and each picture's own filter → each picture's scores."""
        ...

    def describe(self, output: Filter | None) -> dict[str, Any]:
        """What the output place runs under this filter, for `safety.applied`."""
        ...
