"""The engine's promises: neighbours never matter, a failure stays its own, everything submitted comes out."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from contract.filter import Filter
from contract.plan import SafetyPlan
from contract.request import Scheduler
from contract.verdict import ConceptScore
from tests import engines
from workers.engine.engine import Engine, EngineLimits
from workers.engine.model import EngineModel
from workers.engine.picture import Outcome, Progress
from workers.models import LoadedModel
from workers.safety.classifier_free import ClassifierFreeGuidance
from workers.safety.protocol import Conditioning, Detector, RowSafety

MIXED = [
    engines.spec(0),
    engines.spec(1, steps=9, scheduler=Scheduler.EULER, guidance_scale=3.0),
    engines.spec(2, steps=6, scheduler=Scheduler.DPMPP_2M, prompt="two dogs on a beach"),
    engines.spec(3, guidance_scale=1.0, steps=5),
    engines.spec(4, negative_prompt="a tree", steps=7),
    engines.spec(5, width=48, height=16, steps=3),
    engines.spec(6, plan=SafetyPlan(), seed=0),
]


def parts_with(model: LoadedModel, detector: Detector) -> EngineModel:
    return replace(model.parts, detector=detector)


def test_a_mixed_batch_equals_solo_runs_in_float64(tiny_model: LoadedModel) -> None:
    together = engines.final_latents(tiny_model, MIXED)
    for spec, latents in zip(MIXED, together, strict=True):
        [alone] = engines.final_latents(tiny_model, [spec])
        assert (latents - alone).abs().max() <= 1e-10 * alone.abs().max().clamp(min=1)


def test_a_mixed_batch_gives_the_same_pixels_in_float32(tiny_folder: object) -> None:
    model = engines.load(tiny_folder, torch.float32)  # type: ignore[arg-type]
    together = engines.run(engines.engine(model), MIXED)
    for spec, outcome in zip(MIXED, together, strict=True):
        [alone] = engines.run(engines.engine(model), [spec])
        assert np.abs(outcome.pixels.astype(int) - alone.pixels.astype(int)).max() <= 1


def test_joining_a_running_batch_changes_nothing(tiny_model: LoadedModel) -> None:
    """Rows admitted at different ticks, in a bucket that keeps changing."""
    [alone] = engines.run(engines.engine(tiny_model), [engines.spec(0, steps=12)])
    running = engines.engine(tiny_model, EngineLimits(unet_rows=4, pictures_in_flight=3, pictures_judged=1))
    outcomes = []
    running.submit(engines.spec(0, steps=12))
    for index in range(1, 6):
        outcomes += running.step()
        running.submit(engines.spec(index, steps=2 + index))
    while not running.is_idle:
        outcomes += running.step()
    [joined] = [o for o in outcomes if isinstance(o, Outcome) and o.spec.index == 0]
    assert np.array_equal(joined.pixels, alone.pixels)
    assert joined.pictures_per_batch_mean > 1


def test_progress_counts_every_step_once(tiny_model: LoadedModel) -> None:
    running = engines.engine(tiny_model)
    running.submit(engines.spec(0, steps=5))
    events = []
    while not running.is_idle:
        events += running.step()
    assert [event.step for event in events if isinstance(event, Progress)] == [1, 2, 3, 4, 5]
    assert isinstance(events[-1], Outcome)


def test_unet_rows_count_branches(tiny_model: LoadedModel) -> None:
    guided, plain = engines.run(
        engines.engine(tiny_model), [engines.spec(0, steps=5), engines.spec(1, steps=5, guidance_scale=1.0)]
    )
    assert (guided.unet_rows, plain.unet_rows) == (10, 5)
    assert plain.applied["guidance"]["is_guided"] is False


class Raising(ClassifierFreeGuidance):
    """A guidance whose `combine` raises, or gives NaN, at its third step."""

    def __init__(self, conditioning: Conditioning, *, gives_nan: bool) -> None:
        super().__init__(conditioning)
        self.gives_nan = gives_nan

    def combine(self, output: Sequence[Tensor], step: int) -> Tensor:
        if step == 2 and not self.gives_nan:
            raise RuntimeError("third step")
        noise = super().combine(output, step)
        return noise * float("nan") if step == 2 else noise


class RaisingCorrector:
    """Raises for a group in which a row is at its second step and faulty; moves the others."""

    def correct(self, rows: Sequence[object], clean: Tensor, steps: Sequence[int]) -> Tensor:
        if 1 in steps:
            raise RuntimeError("second step")
        return clean + 1


class RaisingTrajectory:
    """A trajectory whose corrector raises at its second step."""

    corrector = RaisingCorrector()

    def describe(self) -> dict[str, object]:
        return {"method": "raising"}

    def record(self) -> dict[str, object]:
        return {}


@pytest.mark.parametrize(
    ("fault", "code"),
    [("guidance", "row_failed"), ("trajectory", "row_failed"), ("nan", "invalid_output"), ("start", "row_failed")],
)
def test_a_row_that_fails_takes_down_only_itself(tiny_model: LoadedModel, fault: str, code: str) -> None:
    def build(plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:
        if conditioning.prompt != "the faulty one":
            return tiny_model.methods(plan, conditioning)
        if fault == "start":
            raise ValueError("cannot start")
        if fault == "trajectory":
            return RowSafety(ClassifierFreeGuidance(conditioning), trajectory=RaisingTrajectory())
        return RowSafety(Raising(conditioning, gives_nan=fault == "nan"))

    specs = [engines.spec(i, prompt="the faulty one" if i == 1 else "a cat") for i in range(4)]
    outcomes = engines.run(Engine(tiny_model.parts, build), specs)
    assert len(outcomes) == 4
    assert outcomes[1].failure is not None
    assert outcomes[1].failure.code == code
    assert outcomes[1].pixels is None
    for index in (0, 2, 3):
        [alone] = engines.run(engines.engine(tiny_model), [specs[index]])
        assert np.array_equal(outcomes[index].pixels, alone.pixels)


class Cramped(EngineModel):
    """A model on a device that holds two UNet rows, and none of the prompt with seed 13's size."""

    def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
        if len(latents) > 4 or latents.shape[-1] > 16:
            raise torch.OutOfMemoryError("out of memory")
        return super().predict(latents, timesteps, conditioning)


def test_out_of_memory_halves_the_batch_and_fails_only_what_cannot_fit(tiny_model: LoadedModel) -> None:
    cramped = Cramped(**{name: getattr(tiny_model.parts, name) for name in EngineModel.__dataclass_fields__})
    specs = [*(engines.spec(i) for i in range(5)), engines.spec(5, width=48, height=48)]
    outcomes = engines.run(engines.engine(tiny_model, parts=cramped), specs)
    assert [outcome.failure.code if outcome.failure else None for outcome in outcomes] == [None] * 5 + ["out_of_memory"]
    for spec, outcome in zip(specs[:5], outcomes, strict=False):
        [alone] = engines.run(engines.engine(tiny_model), [spec])
        assert np.array_equal(outcome.pixels, alone.pixels)


def test_a_prompt_longer_than_the_encoder_reads_is_not_cut(tiny_model: LoadedModel) -> None:
    long, short = engines.run(engines.engine(tiny_model), [engines.spec(0, prompt="a" * 90), engines.spec(1)])
    assert long.failure is not None
    assert "77" in long.failure.message
    assert short.failure is None


def test_a_canceled_job_leaves_and_the_others_stay(tiny_model: LoadedModel) -> None:
    running = engines.engine(tiny_model, EngineLimits(pictures_in_flight=2))
    for index in range(4):
        running.submit(engines.spec(index, job_id=f"job-{index % 2}", steps=6))
    running.step()
    running.cancel("job-1")
    running.cancel("unknown")
    outcomes = engines.run(running)
    assert [outcome.failure.code if outcome.failure else None for outcome in outcomes] == [None, "canceled"] * 2


def test_a_picture_past_its_deadline_expires_waiting_or_running(tiny_model: LoadedModel) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    running = engines.engine(tiny_model)
    outcomes = engines.run(
        running, [engines.spec(0, deadline_at=past), engines.spec(1, deadline_at=soon, steps=150), engines.spec(2)]
    )
    assert [outcome.failure.code if outcome.failure else None for outcome in outcomes] == ["expired", "expired", None]


class FaultyDetector:
    """The model's detector, but one picture of the batch trips it."""

    def __init__(self, detector: Detector, fault: str, poison: NDArray[np.uint8]) -> None:
        self.detector, self.fault, self.poison = detector, fault, poison

    def score(self, pixels: NDArray[np.uint8], outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        scores = self.detector.score(pixels, outputs)
        trips = [np.array_equal(picture, self.poison) for picture in pixels]
        if not any(trips):
            return scores
        match self.fault:
            case "raises":
                raise OSError("the weights are gone")
            case "too few pictures":
                return scores[:-1]
            case "no scores":
                return [() if trip else own for trip, own in zip(trips, scores, strict=True)]
            case _:
                raise AssertionError(self.fault)

    def describe(self, output: Filter | None) -> dict[str, object]:
        return self.detector.describe(output)


@pytest.mark.parametrize("fault", ["raises", "too few pictures", "no scores"])
def test_a_picture_that_cannot_be_judged_is_withheld_alone(tiny_model: LoadedModel, fault: str) -> None:
    specs = [engines.spec(i) for i in range(4)]
    healthy = engines.run(engines.engine(tiny_model), specs)
    detector = FaultyDetector(tiny_model.parts.detector, fault, healthy[2].pixels)
    outcomes = engines.run(engines.engine(tiny_model, parts=parts_with(tiny_model, detector)), specs)
    assert [outcome.failure.code if outcome.failure else None for outcome in outcomes] == [
        None,
        None,
        "detector_error",
        None,
    ]
    assert outcomes[2].pixels is None
    assert not outcomes[2].scores


def test_a_nan_picture_never_reaches_the_detector_as_a_clean_one(tiny_model: LoadedModel) -> None:
    class Broken(EngineModel):
        def decode(self, latents: Tensor) -> Tensor:
            return super().decode(latents) * float("nan")

    broken = Broken(**{name: getattr(tiny_model.parts, name) for name in EngineModel.__dataclass_fields__})
    [outcome] = engines.run(engines.engine(tiny_model, parts=broken), [engines.spec(0)])
    assert outcome.failure is not None
    assert outcome.failure.code == "invalid_output"
    assert outcome.pixels is None


def lost_device(*_: object, **__: object) -> None:
    raise torch.AcceleratorError("device-side assert")


class LostDetector(FaultyDetector):
    """A detector whose device is gone."""

    def score(self, pixels: NDArray[np.uint8], outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        raise torch.AcceleratorError("device-side assert")


@pytest.mark.parametrize("place", ["predict", "decode", "detector", "start", "combine"])
def test_a_lost_device_ends_the_step_instead_of_failing_pictures_one_by_one(
    tiny_model: LoadedModel, place: str
) -> None:
    """The process has to go: every job after this one would fail, each for good."""
    parts, build = tiny_model.parts, tiny_model.methods
    if place == "detector":
        parts = parts_with(tiny_model, LostDetector(parts.detector, "", np.zeros(0)))
    elif place in ("predict", "decode"):
        lost = type("Lost", (EngineModel,), {place: lost_device})
        parts = lost(**{name: getattr(parts, name) for name in EngineModel.__dataclass_fields__})
    elif place == "start":
        build = lost_device  # type: ignore[assignment]
    else:

        def build(plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:  # type: ignore[misc]
            guidance = ClassifierFreeGuidance(conditioning)
            guidance.combine = lost_device  # type: ignore[method-assign, assignment]
            return RowSafety(guidance)

    running = Engine(parts, build)
    for index in range(2):
        running.submit(engines.spec(index))
    with pytest.raises(torch.AcceleratorError):
        engines.run(running)


def test_the_limits_hold(tiny_model: LoadedModel) -> None:
    calls: list[tuple[str, int]] = []

    class Counting(EngineModel):
        def predict(self, latents: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
            calls.append(("predict", len(latents)))
            return super().predict(latents, timesteps, conditioning)

        def decode(self, latents: Tensor) -> Tensor:
            calls.append(("decode", len(latents)))
            return super().decode(latents)

    counting = Counting(**{name: getattr(tiny_model.parts, name) for name in EngineModel.__dataclass_fields__})
    running = engines.engine(
        tiny_model, EngineLimits(unet_rows=6, pictures_in_flight=5, pictures_judged=2), parts=counting
    )
    outcomes = engines.run(running, [engines.spec(i) for i in range(9)])
    assert all(outcome.failure is None for outcome in outcomes)
    assert max(rows for call, rows in calls if call == "predict") == 6
    assert max(rows for call, rows in calls if call == "decode") == 2
    assert max(outcome.pictures_per_batch_mean for outcome in outcomes) <= 3


def test_a_row_with_more_branches_than_a_call_holds_still_runs(tiny_model: LoadedModel) -> None:
    concepts = [{"text": f"harm {i}", "warmup_steps": 0} for i in range(10)]
    plan = SafetyPlan.model_validate({"guidance": {"method": "sega", "concepts": concepts}})
    running = engines.engine(tiny_model, EngineLimits(unet_rows=4))
    many, plain = engines.run(running, [engines.spec(0, plan=plan), engines.spec(1)])
    assert (many.failure, plain.failure) == (None, None)
    assert many.unet_rows == 12 * 4


class Replaced:
    """A prompt method that puts another prompt in its place for the first two steps."""

    def __init__(self, first: Tensor, then: Tensor) -> None:
        self.first, self.then = first, then

    def is_acting(self, step: int) -> bool:
        return True

    def embedding(self, step: int) -> Tensor:
        return self.first if step < 2 else self.then

    def describe(self) -> dict[str, object]:
        return {"method": "replaced"}


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_a_prompt_method_changes_the_prompts_branch_at_the_steps_it_says(tiny_model: LoadedModel, scale: float) -> None:
    encode = tiny_model.parts.prompts.encode

    def build(plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:
        own = encode(conditioning.prompt)
        always = Replaced(encode("a dog"), encode("a dog") if conditioning.negative_prompt == "always" else own)
        return RowSafety(ClassifierFreeGuidance(replace(conditioning, negative_prompt="")), prompt=always)

    def pixels(running: Engine, **changes: object) -> NDArray[np.uint8]:
        [outcome] = engines.run(running, [engines.spec(0, steps=6, guidance_scale=scale, **changes)])
        assert outcome.pixels is not None
        return outcome.pixels

    dog = pixels(engines.engine(tiny_model), prompt="a dog")
    cat = pixels(engines.engine(tiny_model), prompt="a cat")
    assert np.array_equal(pixels(Engine(tiny_model.parts, build), prompt="a cat", negative_prompt="always"), dog)
    for_two_steps = pixels(Engine(tiny_model.parts, build), prompt="a cat")
    assert not np.array_equal(for_two_steps, dog)
    assert not np.array_equal(for_two_steps, cat)
