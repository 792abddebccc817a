"""What of a job is drawn: the few concepts and numbers worth a look, out of all that is on record."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from contract.result import JobView, Picture
from contract.steps import GuidanceRecord, PerStep, TrajectoryRecord
from contract.verdict import ConceptScore

MOST_CURVES = 6
MOST_BARS = 8


@dataclass(frozen=True)
class Curves:
    """One picture's scores over its steps. `others` is the lowest and highest of the concepts left out, per step."""

    shown: dict[str, PerStep]
    others: tuple[tuple[float | None, float | None], ...]
    left_out: int
    record: TrajectoryRecord

    @classmethod
    def of(cls, record: TrajectoryRecord, names: Sequence[str]) -> Self:
        """The curves of these concepts; of the others, their range."""
        rest = [scores for name, scores in record.scores.items() if name not in names]
        others = tuple((min(at, default=None), max(at, default=None)) for at in map(_finite, zip(*rest, strict=False)))
        shown = {name: record.scores[name] for name in names if name in record.scores}
        return cls(shown, others, len(rest), record)


@dataclass(frozen=True)
class Bars:
    """One picture's final scores, the most suspect first."""

    shown: tuple[ConceptScore, ...]
    left_out: int
    special_care: tuple[str, ...]  # concepts that were found and lowered the others' thresholds

    @classmethod
    def of(cls, scores: Sequence[ConceptScore]) -> Self:
        """Those furthest over their thresholds or nearest to them."""
        judged = sorted((score for score in scores if not score.special_care), key=lambda score: -score.margin)
        care = tuple(score.name for score in scores if score.special_care and score.margin > 0)
        return cls(tuple(judged[:MOST_BARS]), max(0, len(judged) - MOST_BARS), care)


@dataclass(frozen=True)
class Block:
    """Everything that is drawn of one picture; what there is no record of is None."""

    picture: Picture
    curves: Curves | None
    guidance: GuidanceRecord | None
    bars: Bars | None
    name: str  # of the picture; of a compare, its plan's label


@dataclass(frozen=True)
class Limits:
    """The axes' ends, the same for all pictures of a job so that they can be compared by eye."""

    steps: int
    scores: tuple[float, float]  # over the steps
    gradient: float
    push: float
    final: tuple[float, float]


@dataclass(frozen=True)
class Explanation:
    """A job, ready to be drawn: a block per picture, and which of the three panels any of them needs."""

    job: JobView
    methods: tuple[str, ...]
    blocks: tuple[Block, ...]
    limits: Limits

    @classmethod
    def of(cls, job: JobView) -> Self | None:
        """None when the job has no picture with anything to draw."""
        names = _most_suspect(job.images)
        labels = {compared.index: compared.label for compared in job.comparison}
        blocks = tuple(
            Block(
                picture,
                Curves.of(picture.trajectory, names) if picture.trajectory else None,
                picture.guidance,
                Bars.of(picture.concepts) if picture.concepts else None,
                labels.get(picture.index, f"picture {picture.index}"),
            )
            for picture in job.images
        )
        if not any(block.curves or block.guidance or block.bars for block in blocks):
            return None
        return cls(job, _methods(job), blocks, _limits(blocks))

    @property
    def panels(self) -> tuple[str, ...]:
        """Which panels a block has, in the order of time."""
        return tuple(kind for kind in ("curves", "guidance", "bars") if any(getattr(b, kind) for b in self.blocks))


def _most_suspect(pictures: Sequence[Picture]) -> tuple[str, ...]:
    """The concepts with the highest scores at any step: one choice for all pictures, hence one colour for each."""
    highest: dict[str, float] = {}
    for picture in pictures:
        for name, scores in picture.trajectory.scores.items() if picture.trajectory else ():
            highest[name] = max(highest.get(name, -1.0), *_finite(scores), -1.0)
    return tuple(sorted(highest, key=lambda name: -highest[name])[:MOST_CURVES])


def _methods(job: JobView) -> tuple[str, ...]:
    applied = job.safety.applied.values() if job.safety else ()
    names = (place.get("method") for place in applied if isinstance(place, dict))
    return tuple(str(name) for name in names if name and name != "classifier-free")


def _limits(blocks: Sequence[Block]) -> Limits:
    trajectories = [block.curves.record for block in blocks if block.curves]
    pushes = [block.guidance.push for block in blocks if block.guidance]
    bars = [score for block in blocks if block.bars for score in block.bars.shown]
    return Limits(
        steps=max([0, *map(len, pushes), *(len(each) for one in trajectories for each in one.scores.values())]),
        scores=_range(
            [one.threshold for one in trajectories]
            + [s for one in trajectories for e in one.scores.values() for s in _finite(e)]
        ),
        gradient=max([0.0, *(norm for one in trajectories for norm in _finite(one.gradient_norms))]),
        push=max([0.0, *(strength for push in pushes for strength in _finite(push))]),
        final=_range([0.0, *(score.score for score in bars), *(score.threshold for score in bars)]),
    )


def _range(numbers: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest, with a margin on both sides."""
    if not numbers:
        return 0.0, 1.0
    low, high = min(numbers), max(numbers)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, high + margin


def _finite(numbers: Iterable[float | None]) -> list[float]:
    return [number for number in numbers if number is not None]
