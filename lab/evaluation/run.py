"""Runs plans over prompts through the engine, the same seeds for all, and keeps one line per picture.

A chunk of prompts goes through every plan before the next chunk begins, so that a machine that slows down favours no
plan, and what was measured so far is balanced whenever the run ends. A run that ended early goes on where it stopped.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from contract.plan import SafetyPlan
from contract.request import Scheduler
from contract.steps import PerStep
from lab.evaluation.prompts import Case
from lab.world import judge as judging
from lab.world.judge import Judge
from lab.world.objects import UNSAFE
from workers import models
from workers.engine.engine import Engine
from workers.engine.picture import Outcome, PictureSpec
from workers.models import LoadedModel
from workers.safety.filter import ConceptFilter
from workers.variants.shelf import VariantShelf

CHUNK: Final = 16  # pictures made together
PLAIN: Final = "none"
VARIANTS: Final = Path("models/variants")
VARIANT_BYTES: Final = 8 << 30
Pixels = NDArray[np.uint8]  # (height, width, 3)


class OtherRun(ValueError):
    """The file holds results of another model or of other settings."""


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
    ) -> "Bench":
        """A model folder or hub id; its own defaults where nothing is said, its `judge/` where it has one.

        variants: folder of erased weights that plans may name
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        model = models.load(source, name="evaluation", device=device, dtype=dtype)
        judge = Path(source) / "judge"
        return cls(
            model,
            judging.load(judge) if with_judge and judge.is_dir() else None,
            steps or model.info.default_steps,
            model.info.default_guidance_scale if guidance_scale is None else guidance_scale,
            VariantShelf(variants, model.parts, model.info.weights_sha256, VARIANT_BYTES),
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


@dataclass(frozen=True)
class Measured:
    """What is known of one picture. None: not to be known here, for want of a judge, a text tower or a named object."""

    prompts: str
    index: int
    plan: str
    text: str
    seed: int
    failure: str | None = None
    shown: tuple[str, ...] | None = None
    unsafe: bool | None = None
    named: bool | None = None  # every object that the prompt names is shown
    flagged: bool = False  # by the model's own checker
    likeness: float | None = None  # cosine of picture and prompt in the checker's CLIP
    distance: float = 0.0  # mean absolute difference from the plain picture of the same seed, in 0..1
    unet_rows: int = 0
    seconds: float = 0.0  # the chunk's time, shared out
    corrected_steps: int | None = None
    similarities: Mapping[str, PerStep] | None = None  # per step, of a watching plan


class Results:
    """A file of measured pictures: a line of settings, then one line for each picture.

    Raises:
        OtherRun: the file was begun under other settings.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any]) -> None:
        self.file, self.settings = file, settings
        self.lines: dict[tuple[str, str, int], Measured] = {}
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings) + "\n")
            return
        begun, lines = read(file)
        if begun != settings:
            raise OtherRun(f"{file} was begun with another model or other settings; name another file or remove it")
        self.lines = {(line.prompts, line.plan, line.index): line for line in lines}
        _drop_torn_line(file)

    def add(self, pictures: Sequence[Measured]) -> None:
        """Keep a chunk, in one write."""
        with self.file.open("a") as file:
            file.write("".join(json.dumps(_told(picture)) + "\n" for picture in pictures))
            file.flush()
            os.fsync(file.fileno())
        self.lines |= {(picture.prompts, picture.plan, picture.index): picture for picture in pictures}


def read(file: Path) -> tuple[dict[str, Any], list[Measured]]:
    """The settings and the pictures in a file of results; a line torn by a crash is left out.

    Raises:
        OtherRun: it is no file of results.
    """
    try:
        head, *lines = file.read_text().splitlines(keepends=True)
        whole = [json.loads(line) for line in lines if line.endswith("\n")]
        pictures = [Measured(**{key: _frozen(value) for key, value in line.items()}) for line in whole]
        return json.loads(head), pictures
    except (ValueError, TypeError) as error:
        raise OtherRun(f"{file} holds no results of an evaluation: {error}") from None


def _drop_torn_line(file: Path) -> None:
    content = file.read_text()
    if not content.endswith("\n"):
        file.write_text(content[: content.rfind("\n") + 1])


def _told(picture: Measured) -> dict[str, Any]:
    return {name: value for name, value in asdict(picture).items() if value is not None}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def run(
    bench: Bench, cases: Sequence[Case], plans: Mapping[str, SafetyPlan], results: Results, *, watch: bool = False
) -> Iterator[int]:
    """Measure every case under every plan; yields how many pictures were done, chunk by chunk.

    watch: keep every step's similarities of trajectory methods

    Raises:
        UnusableVariant: a plan names erased weights that are not there or not of this model.
    """
    engine = Engine(bench.model.parts, bench.model.methods)
    for chunk in _chunks(cases):
        missing = [
            name for name in plans if any((case.prompts, name, case.index) not in results.lines for case in chunk)
        ]
        if not missing:
            yield len(chunk) * len(plans)
            continue
        yield len(chunk) * (len(plans) - len(missing))
        made_plain = _make(engine, bench, chunk, SafetyPlan())
        plain = [outcome.pixels for outcome in made_plain[0]]
        for name in missing:
            is_plain = plans[name] == SafetyPlan()
            outcomes, seconds = made_plain if is_plain else _make(engine, bench, chunk, plans[name])
            results.add(_measure(bench, chunk, name, outcomes, plain, seconds / len(chunk), watch))
            yield len(chunk)


def _chunks(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for at in range(0, len(cases), CHUNK):
        yield cases[at : at + CHUNK]


def _make(engine: Engine, bench: Bench, chunk: Sequence[Case], plan: SafetyPlan) -> tuple[list[Outcome], float]:
    """The chunk's outcomes in order, and the seconds they took together."""
    info = bench.model.info
    weights = bench.variants.get(plan.weights.variant) if plan.weights else None
    started = time.perf_counter()
    for position, case in enumerate(chunk):
        engine.submit(
            PictureSpec(
                job_id="evaluation",
                index=position,
                prompt=case.text,
                negative_prompt="",
                seed=case.seed,
                steps=bench.steps,
                guidance_scale=bench.guidance_scale,
                scheduler=Scheduler.DDIM,
                width=info.native_width_px,
                height=info.native_height_px,
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
    pixels = np.stack([picture for _, picture in made]) if made else np.zeros((0, 8, 8, 3), np.uint8)
    shown: dict[int, frozenset[str]] = {}
    if bench.judge is not None and made:
        shown = dict(zip((i for i, _ in made), bench.judge.shown(pixels), strict=True))
    cosines = _likeness(bench.model, [chunk[i].text for i, _ in made], pixels)
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
                failure=outcome.failure.code if outcome.failure else None,
                shown=None if objects is None else tuple(sorted(objects)),
                unsafe=None if objects is None else bool(objects & UNSAFE.keys()),
                named=None if objects is None or not case.named else set(case.named) <= objects,
                flagged=any(score.flagged for score in outcome.scores),
                likeness=likeness.get(i),
                distance=_distance(outcome.pixels, plain[i]),
                unet_rows=outcome.unet_rows,
                seconds=round(seconds, 4),
                corrected_steps=len(outcome.trajectory.corrected_steps) if outcome.trajectory else None,
                similarities=dict(outcome.trajectory.scores) if watch and outcome.trajectory else None,
            )
        )
    return measured


def _distance(picture: Pixels | None, plain: Pixels | None) -> float:
    if picture is None or plain is None:
        return 0.0
    return round(float(np.abs(picture.astype(np.int16) - plain).mean() / 255), 5)


def _likeness(model: LoadedModel, texts: Sequence[str], pixels: NDArray[np.uint8]) -> list[float]:
    """Cosines of pictures with their prompts, empty for a model without a text tower."""
    concepts, detector = model.methods.text_concepts, model.parts.detector
    if concepts is None or not isinstance(detector, ConceptFilter) or not texts:
        return []
    prompts = torch.stack([concepts.embed(text) for text in texts])
    return [round(float(cosine), 4) for cosine in (detector.embed(pixels) * prompts).sum(1)]
