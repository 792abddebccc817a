"""Runs plans over prompts through the engine, the same seeds for all, and measures every picture.

A chunk of prompts goes through every plan before the next chunk begins, so that a machine that slows down favours no
plan, and what was measured so far is balanced whenever the run ends. A run that ended early goes on where it stopped;
a picture that failed is done as well, since it would fail again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from contract.model import VariantStatus
from contract.plan import SafetyPlan
from contract.request import Scheduler
from lab.evaluation.prompts import Case
from lab.evaluation.results import Measured as Measured
from lab.evaluation.results import OtherRun as OtherRun
from lab.evaluation.results import Results as Results
from lab.evaluation.results import read as read
from lab.world import judge as judging
from lab.world.judge import Judge
from lab.world.objects import UNSAFE
from workers import models
from workers.engine.engine import Engine
from workers.engine.picture import Outcome, PictureSpec
from workers.models import LoadedModel
from workers.variants.reading import UnusableVariant
from workers.variants.shelf import VariantShelf

CHUNK: Final = 16  # pictures made together
PLAIN: Final = "none"
VARIANTS: Final = Path("models/variants")
VARIANT_BYTES: Final = 8 << 30
Pixels = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Bench:
    """A model to measure on, how its pictures are made, and who judges them. No judge: objects are not told."""

    model: LoadedModel
    judge: Judge | None
    steps: int
    guidance_scale: float
    variants: VariantShelf

    @classmethod
    def load(
        cls,
        source: str,
        steps: int | None = None,
        guidance_scale: float | None = None,
        *,
        with_judge: bool = True,
        variants: Path = VARIANTS,
        device: torch.device | None = None,
    ) -> "Bench":
        """A model folder or hub id; its own defaults where nothing is said, its `judge/` where it has one.

        variants: folder of erased weights that plans may name, whatever their status
        device: that computes; null: the GPU when there is one
        """
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = models.load(source, name="evaluation", device=device, dtype=dtype)
        judge = Path(source) / "judge"
        return cls(
            model,
            judging.load(judge) if with_judge and judge.is_dir() else None,
            steps or model.info.default_steps,
            model.info.default_guidance_scale if guidance_scale is None else guidance_scale,
            VariantShelf(
                variants, model.parts, model.info.weights_sha256, VARIANT_BYTES, served=frozenset(VariantStatus)
            ),
        )

    @property
    def bare_settings(self) -> dict[str, Any]:
        """What pictures follow from under a plan that says everything itself."""
        return {
            "weights_sha256": self.model.info.weights_sha256,
            "steps": self.steps,
            "guidance_scale": self.guidance_scale,
        }

    @property
    def settings(self) -> dict[str, Any]:
        """All that pictures follow from, beside plan and prompt."""
        return self.bare_settings | {
            "safety_concepts": list(self.model.methods.default_concepts),
            "unguidance": json.loads(json.dumps(asdict(self.model.methods.unguidance))),
        }


class Observer(Protocol):
    """Looks at pictures beyond what every run measures."""

    def has_seen(self, line: Measured) -> bool:
        """Whether nothing is left to look at in a picture that was measured before."""

    def seen(
        self, lines: Sequence[Measured], made: Sequence[Pixels | None], plain: Sequence[Pixels | None]
    ) -> list[Measured]:
        """The lines with what it saw added; `made` and `plain` are their pictures, None where one failed."""


def run(
    bench: Bench,
    cases: Sequence[Case],
    plans: Mapping[str, SafetyPlan],
    results: Results,
    *,
    watch: bool = False,
    observer: Observer | None = None,
) -> Iterator[int]:
    """Measure every case under every plan; yields how many pictures were done, chunk by chunk.

    watch: keep every step's similarities of trajectory methods
    observer: sees the pictures too

    Raises:
        UnusableVariant: a plan names erased weights that are not there, not of this model, or made anew meanwhile.
        OtherRun: another run writes to the same file.
    """
    engine, used = Engine(bench.model.parts, bench.model.methods), dict[str, str]()
    with results.alone():
        for chunk in _chunks(cases):
            missing = [name for name in plans if not all(_is_done(results, observer, name, case) for case in chunk)]
            if not missing:
                yield len(chunk) * len(plans)
                continue
            yield len(chunk) * (len(plans) - len(missing))
            made_plain = _make(engine, bench, chunk, SafetyPlan(), used)
            plain = [outcome.pixels for outcome in made_plain[0]]
            for name in missing:
                is_plain = plans[name] == SafetyPlan()
                outcomes, seconds = made_plain if is_plain else _make(engine, bench, chunk, plans[name], used)
                lines = _measure(bench, chunk, name, outcomes, plain, seconds / len(chunk), watch)
                if observer is not None:
                    lines = observer.seen(lines, [outcome.pixels for outcome in outcomes], plain)
                results.add(lines)
                yield len(chunk)


def _is_done(results: Results, observer: Observer | None, plan: str, case: Case) -> bool:
    line = results.lines.get((case.prompts, plan, case.index))
    return line is not None and (observer is None or observer.has_seen(line))


def _chunks(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    """Set by set, so that a picture's neighbours, and with them its last digit, are those of its set alone."""
    for _, of_set in groupby(cases, lambda case: case.prompts):
        members = list(of_set)
        for at in range(0, len(members), CHUNK):
            yield members[at : at + CHUNK]


def _make(
    engine: Engine, bench: Bench, chunk: Sequence[Case], plan: SafetyPlan, used: dict[str, str]
) -> tuple[list[Outcome], float]:
    """The chunk's outcomes in order, and the seconds they took together; `used` has the hash of every variant's weights
    of the chunks before."""
    info = bench.model.info
    weights = bench.variants.get(plan.weights.variant) if plan.weights else None
    if weights and used.setdefault(weights.name, sha256 := weights.description["weights_sha256"]) != sha256:
        raise UnusableVariant(f"the variant {weights.name!r} was made anew while it was measured: begin a new file")
    started = time.perf_counter()
    for position, case in enumerate(chunk):
        engine.submit(
            PictureSpec(
                job_id="evaluation",
                index=position,
                prompt=case.text,
                negative_prompt=case.negative_prompt,
                seed=case.seed,
                steps=bench.steps,
                guidance_scale=bench.guidance_scale if case.guidance_scale is None else case.guidance_scale,
                scheduler=Scheduler.DDIM,
                width=case.width or info.native_width_px,
                height=case.height or info.native_height_px,
                plan=plan,
                weights=weights,
            )
        )
    outcomes: list[Outcome] = []
    while not engine.is_idle:
        outcomes += [event for event in engine.step() if isinstance(event, Outcome)]
    return sorted(outcomes, key=lambda outcome: outcome.spec.index), time.perf_counter() - started


def _measure(
    bench: Bench,
    chunk: Sequence[Case],
    plan: str,
    outcomes: Sequence[Outcome],
    plain: Sequence[Pixels | None],
    seconds: float,
    watch: bool,
) -> list[Measured]:
    made = [(i, outcome.pixels) for i, outcome in enumerate(outcomes) if outcome.pixels is not None]
    shown = {} if bench.judge is None else _shown(bench.judge, dict(made))
    cosines = _likeness(bench.model, [chunk[i].text for i, _ in made], [picture for _, picture in made])
    likeness = dict(zip((i for i, _ in made), cosines, strict=True)) if cosines else {}
    measured = []
    for i, (case, outcome) in enumerate(zip(chunk, outcomes, strict=True)):
        objects = shown.get(i)
        measured.append(
            Measured(
                prompts=case.prompts,
                index=case.index,
                plan=plan,
                text=case.text,
                seed=case.seed,
                categories=case.categories,
                failure=outcome.failure.code if outcome.failure else None,
                shown=None if objects is None else tuple(sorted(objects)),
                unsafe=None if objects is None else bool(objects & UNSAFE.keys()),
                named=None if objects is None or not case.named else set(case.named) <= objects,
                flagged=None if outcome.failure else any(score.flagged for score in outcome.scores),
                likeness=likeness.get(i),
                distance=_distance(outcome.pixels, plain[i]),
                unet_rows=outcome.unet_rows,
                seconds=round(seconds, 4),
                corrected_steps=len(outcome.trajectory.corrected_steps) if outcome.trajectory else None,
                similarities=dict(outcome.trajectory.scores) if watch and outcome.trajectory else None,
            )
        )
    return measured


def _shown(judge: Judge, pictures: Mapping[int, Pixels]) -> dict[int, frozenset[str]]:
    """The objects on each picture, by its number; a size at a time."""
    shown: dict[int, frozenset[str]] = {}
    for shape in {picture.shape for picture in pictures.values()}:
        numbers = [i for i, picture in pictures.items() if picture.shape == shape]
        shown |= dict(zip(numbers, judge.shown(np.stack([pictures[i] for i in numbers])), strict=True))
    return shown


def _distance(picture: Pixels | None, plain: Pixels | None) -> float:
    if picture is None or plain is None:
        return 0.0
    return round(float(np.abs(picture.astype(np.int16) - plain).mean() / 255), 5)


def _likeness(model: LoadedModel, texts: Sequence[str], pixels: Sequence[Pixels]) -> list[float]:
    """Cosines of pictures with their prompts, empty for a model without a text tower."""
    concepts = model.methods.text_concepts
    if concepts is None or not texts:
        return []
    prompts = torch.stack([concepts.embed(text) for text in texts])
    return [round(float(cosine), 4) for cosine in (model.detector.embed(pixels) * prompts).sum(1)]
