"""Drift: whether the scores of what is made now are still spread as they were.

Workers count every score of every picture they make, by concept and hour. The last hours are held against the time
before them by the population stability index, over bins that hold a tenth of the reference each, and one beyond either
end:

    PSI = Σ (pᵢ − qᵢ) ln(pᵢ / qᵢ)      p now, q before; half a picture is added to each bin, so that none is empty

Its customary reading: under 0.1 nothing has shifted, over 0.2 something has. A detector's new version begins anew.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from pydantic import AwareDatetime, Field

from contract import keys
from contract.job import Job
from contract.request import plan_of
from contract.result import Picture
from contract.strict import Strict
from contract.verdict import TEXT_CONCEPTS, ConceptScore

STEP: Final = 0.02  # of a score, in what is counted
BINS: Final = 10  # in what is compared
LEAST: Final = 200  # pictures on either side
SHIFTED_FROM: Final = 0.2
HOUR_S: Final = 3600
KEPT_S: Final = 40 * 24 * HOUR_S

Counts = Mapping[int, int]  # how many scores fell from i·STEP to (i + 1)·STEP, by i
Concept = tuple[str, str, str]  # detector, its version, the concept's name


class Bin(Strict):
    """How many pictures scored from `at` on, to the next bin."""

    at: float
    recent: int
    reference: int


class ConceptDrift(Strict):
    """How far one concept's scores have moved."""

    detector: str
    detector_version: str
    name: str
    recent: int = Field(description="Pictures scored in the last hours.")
    reference: int = Field(description="Pictures scored in the time before.")
    psi: float | None = Field(description=f"Null under {LEAST} pictures on either side.")
    recent_mean: float | None
    reference_mean: float | None
    shifted: bool
    histogram: tuple[Bin, ...] = Field(
        (), description=f"Of all scores, in bins of {STEP}, without those that are empty; where `histograms` asks."
    )


class DriftReport(Strict):
    """All concepts of a model, those that have moved furthest first."""

    model: str
    until: AwareDatetime
    recent_hours: int
    reference_hours: int
    threshold: float = SHIFTED_FROM
    shifted: bool = Field(description="Whether any concept's scores have shifted.")
    concepts: tuple[ConceptDrift, ...]

    @property
    def without_histograms(self) -> "DriftReport":
        """The same, shorter."""
        concepts = tuple(each.model_copy(update={"histogram": ()}) for each in self.concepts)
        return self.model_copy(update={"concepts": concepts})


def hour_key(model: str, moment_s: float) -> str:
    """Where the hour's scores are counted."""
    return keys.scores_key(model, int(moment_s // HOUR_S))


def counted(job: Job, pictures: Iterable[Picture]) -> dict[str, int]:
    """How much each field of the hour's hash rises by pictures that were made. What a request itself named and wrote
    out counts for nothing: under one name everybody means something else, and of names there is no end."""
    return Counter(
        _field_of(score)
        for picture in pictures
        for score in picture.concepts
        if score.detector != TEXT_CONCEPTS or score.name not in _own_names(job.of_picture(picture.index))
    )


def read(hash_of_an_hour: Mapping[str, str]) -> dict[Concept, Counter[int]]:
    """An hour's counts by concept; what makes no sense is left out."""
    counts: dict[Concept, Counter[int]] = {}
    for field, count in hash_of_an_hour.items():
        detector, version, name, place = (*field.split("|"), "", "", "")[:4]
        if place.removeprefix("-").isdigit() and count.isdigit():
            counts.setdefault((detector, version, name), Counter())[int(place)] += int(count)
    return counts


def drift_of(concept: Concept, recent: Counts, reference: Counts) -> ConceptDrift:
    """One concept's."""
    detector, version, name = concept
    now, before = sum(recent.values()), sum(reference.values())
    psi = stability(recent, reference) if min(now, before) >= LEAST else None
    return ConceptDrift(
        detector=detector,
        detector_version=version,
        name=name,
        recent=now,
        reference=before,
        psi=psi,
        recent_mean=_mean(recent),
        reference_mean=_mean(reference),
        shifted=psi is not None and psi > SHIFTED_FROM,
        histogram=tuple(
            Bin(at=round(place * STEP, 2), recent=recent.get(place, 0), reference=reference.get(place, 0))
            for place in sorted({*recent, *reference})
        ),
    )


def stability(recent: Counts, reference: Counts) -> float:
    """The population stability index, rounded to 4 digits."""
    edges = _edges(reference)
    now, before = _binned(recent, edges), _binned(reference, edges)
    total_now, total_before = sum(now), sum(before)
    shares = [(p / total_now, q / total_before) for p, q in zip(now, before, strict=True)]
    return round(sum((p - q) * math.log(p / q) for p, q in shares), 4)


def _own_names(job: Job) -> set[str]:
    output = plan_of(job.requested).output
    return {concept.name for concept in output.concepts} if output else set()


def _field_of(score: ConceptScore) -> str:
    return f"{score.detector}|{score.detector_version}|{score.name}|{math.floor(score.score / STEP)}"


def _edges(reference: Counts) -> list[int]:
    """Upper ends of bins: what lies under the reference, bins that hold about as much of it each; the last has none."""
    edges, seen, total = [min(reference) - 1], 0, sum(reference.values())
    for place in sorted(reference):
        seen += reference[place]
        if seen >= total * len(edges) / BINS:
            edges.append(place)
    return edges


def _binned(counts: Counts, edges: Sequence[int]) -> list[float]:
    binned = [0.5] * (len(edges) + 1)
    for place, count in counts.items():
        binned[next((i for i, edge in enumerate(edges) if place <= edge), len(edges))] += count
    return binned


def _mean(counts: Counts) -> float | None:
    total = sum(counts.values())
    return round(sum((place + 0.5) * STEP * count for place, count in counts.items()) / total, 4) if total else None
