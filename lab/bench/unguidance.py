"""Unguidance with its gate against the same with gradients at every step, on rows of which a share trips.

Both arms run the engine over the same prompts and seeds, and correct the same rows by the same numbers. A row trips or
not by construction: its threshold lies below or above every cosine. The arm without a gate takes the gradient of every
row at every step and throws away those of rows under their threshold, as an implementation without a gate would.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from contract.plan import SafetyPlan
from contract.steering import Unguidance
from lab.bench.engine import run_engine, specs_for
from lab.bench.interleaved import Run, Timing, time_interleaved
from workers import models
from workers.engine.engine import Engine, EngineLimits
from workers.safety.protocol import Corrector
from workers.safety.unguidance import FLOOR, CorrectedRow, TrajectoryCorrector

ALWAYS, NEVER = -1.0, 1.0  # thresholds below and above every cosine


@dataclass(frozen=True)
class GateComparison:
    """The same pictures with the gate, without it, and without the method."""

    pictures: int
    tripping: int
    plain: Timing
    gated: Timing
    ungated: Timing

    @property
    def share(self) -> float:
        """Median time with the gate over median time with gradients at every step."""
        return self.gated.median / self.ungated.median

    @property
    def share_of_method(self) -> float:
        """The same of what the method adds to plain generation."""
        return (self.gated.median - self.plain.median) / (self.ungated.median - self.plain.median)


@dataclass(frozen=True, eq=False)
class UngatedCorrector:
    """Takes every row's gradient at every step, in the same pass that scores it."""

    inner: TrajectoryCorrector

    def correct(self, rows: Sequence[CorrectedRow], clean: Tensor, steps: Sequence[int]) -> Tensor:
        """(rows, 4, h, w) → the same, corrected where a row is over its threshold."""
        with torch.enable_grad():
            latents = clean.detach().requires_grad_()
            embeddings = self.inner.embed(latents)
            similarities = [row.concepts @ embedding for row, embedding in zip(rows, embeddings, strict=True)]
            means = [
                each.topk(min(row.top_k, len(each))).values.mean() for row, each in zip(rows, similarities, strict=True)
            ]
            total = torch.stack([mean / mean.detach().clamp(min=FLOOR) for mean in means]).sum()
            (gradients,) = torch.autograd.grad(total, latents)
        corrected = clean.clone()
        for i, (row, each) in enumerate(zip(rows, similarities, strict=True)):
            row.similarities.append(each.detach())
            if float(each.max()) >= row.threshold:
                corrected[i] -= row.strength * row.schedule.weight(steps[i], row.steps) * gradients[i]
        return corrected


def _corrected(threshold: float) -> SafetyPlan:
    """Unguidance that may act at every step, whatever the model's own schedule is."""
    return SafetyPlan(trajectory=Unguidance(threshold=threshold, schedule="constant"))


def compare_gate(source: str, *, pictures: int, tripping: int, steps: int, repeats: int) -> GateComparison:
    """Time both arms and plain generation, interleaved, on `pictures` of which `tripping` are corrected at every step.

    Raises:
        ValueError: more trip than there are.
        TypeError: the model corrects in another way.
    """
    if tripping > pictures:
        raise ValueError(f"{tripping} of {pictures} pictures cannot trip")
    model = models.load(source, name="bench", device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    specs = [
        replace(spec, plan=_corrected(ALWAYS if index < tripping else NEVER))
        for index, spec in enumerate(specs_for(model.info, range(pictures), steps))
    ]
    gated = model.methods.corrector
    if not isinstance(gated, TrajectoryCorrector):
        raise TypeError("the model's corrector has no gate to compare with")
    correctors: dict[str, Corrector] = {"gated": gated, "ungated": UngatedCorrector(gated)}
    limits = EngineLimits(pictures_in_flight=pictures)
    arms: dict[str, Run] = {
        name: partial(run_engine, Engine(model.parts, replace(model.methods, corrector=corrector), limits), specs)
        for name, corrector in correctors.items()
    }
    plain = [replace(spec, plan=SafetyPlan()) for spec in specs]
    arms["plain"] = partial(run_engine, Engine(model.parts, model.methods, limits), plain)
    timings = time_interleaved(arms, repeats)
    return GateComparison(pictures, tripping, timings["plain"], timings["gated"], timings["ungated"])
