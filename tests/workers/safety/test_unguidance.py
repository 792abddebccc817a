"""CorrectedRow: its gradient, its gate, and what it does where logarithms end."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from contract.plan import SafetyPlan
from workers.models import LoadedModel
from workers.safety.methods import UnguidanceDefaults
from workers.safety.protocol import Conditioning
from workers.safety.unguidance import FLOOR, CorrectedRow, StrengthSchedule, TrajectoryCorrector


class Decoder(nn.Module):
    """A smooth picture of a latent, inside (−1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.ConvTranspose2d(4, 3, 2, stride=2).double()

    def forward(self, latents: Tensor) -> Tensor:
        return torch.tanh(self.net(latents)) * 0.9


class Embedder(nn.Module):
    """A picture as eight numbers; counts the rows it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3 * 8 * 8, 8).double()
        self.rows_forward = 0
        self.rows_backward = 0

    def forward(self, pictures: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            self.rows_backward += len(pictures)
        else:
            self.rows_forward += len(pictures)
        return self.net(pictures.flatten(1))


@pytest.fixture
def embedder() -> Embedder:
    torch.manual_seed(0)
    return Embedder()


@pytest.fixture
def corrector(embedder: Embedder) -> TrajectoryCorrector:
    torch.manual_seed(1)
    return TrajectoryCorrector(Decoder(), embedder, 8, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))


@pytest.fixture
def clean() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(3, 4, 4, 4, dtype=torch.float64)


def row(corrector: TrajectoryCorrector, concepts: Tensor, **changes: object) -> CorrectedRow:
    names = tuple(f"c{i}" for i in range(len(concepts)))
    plain = CorrectedRow(corrector, names, concepts, threshold=-1.0, strength=75.0, top_k=len(concepts), steps=10)
    return replace(plain, similarities=[], corrected_steps=[], gradient_norms=[], **changes)


def towards(corrector: TrajectoryCorrector, clean: Tensor, count: int = 3) -> Tensor:
    """Concepts near what the latents show, so that similarities are positive."""
    torch.manual_seed(3)
    with torch.no_grad():
        shown = corrector.embed(clean).mean(dim=0)
    return normalize(shown + 0.3 * torch.randn(count, 8, dtype=torch.float64), dim=-1)


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_the_correction_is_the_gradient_of_log_p_by_finite_differences(
    corrector: TrajectoryCorrector, clean: Tensor, top_k: int
) -> None:
    concepts = towards(corrector, clean)

    def log_p(latent: Tensor) -> Tensor:
        with torch.no_grad():
            return (corrector.embed(latent[None]) @ concepts.T)[0].topk(top_k).values.mean().log()

    corrected = corrector.correct([row(corrector, concepts, top_k=top_k)], clean[:1], [0])
    gradient = (clean[0] - corrected[0]) / 75.0
    generator = torch.Generator().manual_seed(4)
    for _ in range(12):
        place = tuple(int(torch.randint(size, (), generator=generator)) for size in clean[0].shape)
        nudge = torch.zeros_like(clean[0])
        nudge[place] = 1e-6
        slope = (log_p(clean[0] + nudge) - log_p(clean[0] - nudge)) / 2e-6
        assert gradient[place] == pytest.approx(float(slope), rel=1e-5, abs=1e-9)


def test_only_rows_over_their_threshold_are_differentiated_and_changed(
    corrector: TrajectoryCorrector, embedder: Embedder, clean: Tensor
) -> None:
    concepts = towards(corrector, clean)
    rows = [row(corrector, concepts, threshold=threshold) for threshold in (1.0, -1.0, 1.0)]
    embedder.rows_forward = 0
    corrected = corrector.correct(rows, clean, [0, 4, 7])
    assert torch.equal(corrected[[0, 2]], clean[[0, 2]])
    assert not torch.equal(corrected[1], clean[1])
    assert (embedder.rows_forward, embedder.rows_backward) == (3, 1)
    assert [one.corrected_steps for one in rows] == [[], [4], []]


def test_a_correction_lowers_the_similarity(corrector: TrajectoryCorrector, clean: Tensor) -> None:
    concepts = towards(corrector, clean, 1)
    before = row(corrector, concepts, strength=0.05)
    corrected = corrector.correct([before] * 1, clean[:1], [0])
    after = row(corrector, concepts)
    corrector.correct([after], corrected, [0])
    assert after.similarities[0] < before.similarities[0]


@pytest.mark.parametrize("sign", [-1.0, 0.0])
def test_no_nan_where_the_logarithm_is_undefined_and_still_downhill(
    corrector: TrajectoryCorrector, clean: Tensor, sign: float
) -> None:
    with torch.no_grad():
        shown = corrector.embed(clean[:1])[0]
    aside = torch.linalg.qr(torch.stack([shown, torch.ones_like(shown)], dim=1)).Q[:, 1]
    concept = normalize(aside if sign == 0.0 else sign * shown + 0.1 * aside, dim=0)[None]
    one = row(corrector, concept, strength=FLOOR * 0.01)
    corrected = corrector.correct([one], clean[:1], [0])
    assert torch.isfinite(corrected).all()
    after = row(corrector, concept)
    corrector.correct([after], corrected, [0])
    assert after.similarities[0] < one.similarities[0]


def test_a_batch_of_rows_equals_each_alone(corrector: TrajectoryCorrector, clean: Tensor) -> None:
    concepts = towards(corrector, clean)

    def rows() -> list[CorrectedRow]:
        return [row(corrector, concepts[: 1 + i], top_k=1 + i) for i in range(3)]

    together = corrector.correct(rows(), clean, [0, 1, 2])
    for i, alone in enumerate(rows()):
        assert (together[i] - corrector.correct([alone], clean[i : i + 1], [i])[0]).abs().max() <= 1e-10


def test_pictures_of_another_size_are_resized_as_clips_processor_does(embedder: Embedder) -> None:
    torch.manual_seed(5)
    wide = TrajectoryCorrector(Decoder(), embedder, 8, mean=(0, 0, 0), std=(1, 1, 1))
    assert wide.embed(torch.randn(1, 4, 6, 10, dtype=torch.float64)).shape == (1, 8)


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (StrengthSchedule(), [1, 1, 1, 1]),
        (StrengthSchedule("window", 1, 3), [0, 1, 1, 0]),
        (StrengthSchedule("linear"), [1, 0.75, 0.5, 0.25]),
        (StrengthSchedule("linear", 1, 3), [0, 1, 0.5, 0]),
    ],
)
def test_schedules_weigh_the_strength(schedule: StrengthSchedule, weights: list[float]) -> None:
    assert [schedule.weight(step, 4) for step in range(4)] == weights


def test_a_step_outside_the_schedule_is_scored_and_not_corrected(corrector: TrajectoryCorrector, clean: Tensor) -> None:
    one = row(corrector, towards(corrector, clean), schedule=StrengthSchedule("window", 5, 6))
    assert torch.equal(corrector.correct([one], clean[:1], [0]), clean[:1])
    assert len(one.record().scores["c0"]) == 1


def test_a_similarity_that_is_not_finite_is_an_error_not_a_pass(corrector: TrajectoryCorrector, clean: Tensor) -> None:
    one = row(corrector, towards(corrector, clean))
    with pytest.raises(FloatingPointError):
        corrector.correct([one], clean[:1] * float("nan"), [0])


def test_a_gradient_that_fails_leaves_the_record_as_it_was(
    corrector: TrajectoryCorrector, embedder: Embedder, clean: Tensor
) -> None:
    one = row(corrector, towards(corrector, clean))
    corrector._gradients = lambda rows, latents: (_ for _ in ()).throw(torch.OutOfMemoryError())  # type: ignore[method-assign]
    with pytest.raises(torch.OutOfMemoryError):
        corrector.correct([one], clean[:1], [0])
    assert one.record() == row(corrector, one.concepts).record()


@pytest.mark.parametrize(
    ("place", "steps", "expected"),
    [
        ({}, 25, ("window", 10, None)),
        ({}, 1, ("constant", 0, None)),  # a tenth step of one would be none
        ({"schedule": "constant"}, 25, ("constant", 0, None)),
        ({"schedule": "window", "start_step": 3, "end_step": 9}, 25, ("window", 3, 9)),
    ],
)
def test_a_model_says_from_where_its_pictures_are_settled_unless_the_plan_does(
    tiny_model: LoadedModel, place: dict[str, object], steps: int, expected: tuple[str, int, int | None]
) -> None:
    methods = replace(tiny_model.methods, unguidance=UnguidanceDefaults(settled_after=0.4))
    plan = SafetyPlan.model_validate({"trajectory": {"preset": "filter", **place}})
    trajectory = methods(plan, Conditioning("a cat", "", 7.5, steps)).trajectory
    assert trajectory is not None
    told = trajectory.describe()["schedule"]
    assert (told["kind"], told["start_step"], told["end_step"]) == expected
