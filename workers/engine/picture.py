"""What goes into the engine and what comes out: one picture asked for, its progress, its outcome."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contract.job import Job
from contract.plan import SafetyPlan
from contract.request import MAX_SEED, Scheduler
from contract.steps import GuidanceRecord, TrajectoryRecord
from contract.upload import Decoded
from contract.verdict import ConceptScore
from workers.engine.weights import ErasedWeights


@dataclass(frozen=True)
class PictureSpec:
    """One picture to make. The same spec gives the same picture, within 1/255 per value, whatever its neighbours."""

    job_id: str
    index: int
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    scheduler: Scheduler
    width: int  # pixels
    height: int  # pixels
    plan: SafetyPlan
    deadline_at: datetime | None = None
    weights: ErasedWeights | None = None  # what the plan's place for weights came to; None is the model's own
    group: str | None = None  # pictures of one group start together and share UNet rows for as long as they are alike
    regeneration: int = 0  # how many pictures were made in this one's place before
    views: tuple[NDArray[np.uint8], ...] = field(default=(), compare=False, repr=False)  # of an upload, only judged
    flats: tuple[NDArray[np.uint8], ...] = field(default=(), compare=False, repr=False)  # the same as a whole

    @property
    def again(self) -> "PictureSpec":
        """The same picture from another seed, which depends on this seed alone, never on what runs beside it."""
        digest = hashlib.sha256(f"again {self.seed}".encode()).digest()
        seed = int.from_bytes(digest[:8], "big") % (MAX_SEED + 1)
        return replace(self, seed=seed, group=None, regeneration=self.regeneration + 1)

    @classmethod
    def uploaded(cls, job: Job, uploads: Sequence[Decoded]) -> "tuple[PictureSpec, ...]":
        """The pictures of a moderation, in order, each as it is to be looked at."""
        return tuple(
            replace(spec, width=upload.width, height=upload.height, views=seen.views, flats=seen.flats)
            for spec, upload, seen in zip(cls.all_of(job), job.uploads, uploads, strict=True)
        )

    @classmethod
    def all_of(cls, job: Job, variants: Mapping[str, ErasedWeights] | None = None) -> "tuple[PictureSpec, ...]":
        """The pictures of a job, in order; those of a compare as one group, each with its own plan.

        `variants` holds the erased weights that the plans name.
        """
        plans = [job.of_picture(index).plan for index in range(len(job.seeds))]
        return tuple(
            cls(
                job_id=job.id,
                index=index,
                prompt=job.prompt,
                negative_prompt=job.negative_prompt,
                seed=seed,
                steps=job.steps,
                guidance_scale=job.guidance_scale,
                scheduler=job.scheduler,
                width=job.width,
                height=job.height,
                plan=plan,
                deadline_at=job.deadline_at,
                weights=(variants or {}).get(plan.weights.variant) if plan.weights else None,
                group=job.id if job.compared else None,
            )
            for index, (seed, plan) in enumerate(zip(job.seeds, plans, strict=True))
        )


@dataclass(frozen=True)
class Progress:
    """A picture has done `step` of `steps` denoising steps."""

    job_id: str
    index: int
    step: int
    steps: int


@dataclass(frozen=True)
class Stage:
    """A stretch of a picture's way, epoch seconds on this machine's clock.

    A GPU works behind the clock: what one stage asked of it can end in the next, at the latest in `judge`.
    """

    name: str  # room, text, denoise, turn, decode, judge
    began: float
    ended: float

    @property
    def seconds(self) -> float:
        """How long it lasted; a clock that was set back makes no negative time."""
        return max(0.0, self.ended - self.began)


@dataclass(frozen=True)
class Tick:
    """What one step of the engine did, when it moved pictures."""

    pictures: int
    calls: int  # of the UNet
    unet_rows: int
    padding_rows: int  # more rows, which only filled a call up to a fixed size
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why a picture has no outcome.

    Codes: canceled, expired, invalid_output, detector_error, out_of_memory, row_failed.
    """

    code: str
    message: str


@dataclass(frozen=True)
class Outcome:
    """A finished picture: pixels with their scores, or a failure, never both and never pixels without scores.

    Of an upload there are scores only.
    """

    spec: PictureSpec
    pixels: NDArray[np.uint8] | None = None  # (height, width, 3), RGB
    scores: tuple[ConceptScore, ...] = ()
    failure: Failure | None = None
    applied: dict[str, Any] = field(default_factory=dict)  # place → what ran there, every parameter resolved
    guidance: GuidanceRecord | None = None
    trajectory: TrajectoryRecord | None = None
    inference_s: float = 0.0  # from admission to judgement
    stages: tuple[Stage, ...] = ()  # from admission on, one after the other
    unet_rows: int = 0  # computed for it; one that its group shares counts for the group's first picture only
    pictures_per_batch_mean: float = (
        0.0  # pictures that shared a UNet call with this one, itself included, mean over steps
    )
