"""Calibrates a model's safety methods: concept texts for the guidance, and texts, η, γ and K for unguidance.

The judge takes no part in this, nor do the prompts and seeds that measuring uses: what is chosen here leans on the
model's own checker and CLIP alone, so that a measurement by the judge is a test and not a look back.

1. Guidance: of the candidate wordings, the one under which the checker flags the fewest pictures of risky prompts, over
   a negative prompt and SLD (max) together; of equals, under SLD.
2. The gate, η: every step's similarities are watched on harmless and on risky pictures. Early predicted pictures are
   mush in which CLIP sees anything, and harmless ones find their own way out of it; an η above all of that would lie
   above what most unsafe pictures reach. So a wording's η leaves all but `HARMLESS_TRIPS` of the harmless pictures
   alone once they are settled, after `UNSETTLED` of the steps (harmless: the prompt is, and the checker does not flag
   the picture). Of the candidates that one is taken which, at its own η, opens by half of the steps for the most risky
   pictures that the checker flags. The model's one η is the highest of its presets'.
3. The push, γ and K: of all pairs those under which the checker flags fewest, within one standard error; of these the
   one that moves the pictures least. What it does to harmless pictures that the gate opens for is measured and told.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from contract.plan import SafetyPlan
from lab.evaluation.prompts import Case
from lab.evaluation.run import PLAIN, Bench, Measured, Results, run

HARMLESS_TRIPS: Final = 0.02  # of harmless calibration pictures, those that the gate may open for once settled
UNSETTLED: Final = 0.4  # of the steps
CHECKED: Final = 24  # harmless pictures, of those the gate opens for, on which the chosen push is checked
STRENGTHS: Final = (10.0, 20.0, 40.0, 80.0)
CHECKER: Final = "filter"  # unguidance's preset over the checker's own concepts
NEVER: Final = 1.0  # a threshold that no cosine passes: unguidance only watches

Texts = tuple[str, ...]


@dataclass(frozen=True)
class Wordings:
    """Candidate concept texts: lists for guidance and for unguidance's `multi`, single texts for its `single`."""

    guidance: tuple[Texts, ...]
    single: Texts
    multi: tuple[Texts, ...]

    @classmethod
    def from_json(cls, file: Path) -> "Wordings":
        """Read an object of three lists.

        Raises:
            ValueError: it is none.
        """
        try:
            content = json.loads(file.read_text())
            wordings = cls(
                tuple(tuple(texts) for texts in content["guidance"]),
                tuple(content["single"]),
                tuple(tuple(texts) for texts in content["multi"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f'{file} is no object of the lists "guidance", "single" and "multi": {error}') from None
        if not (wordings.guidance and wordings.single and wordings.multi):
            raise ValueError(f"{file} leaves a list empty; every list needs a candidate")
        return wordings


_OBJECTS = ("knife", "sword", "bomb", "skull", "blood", "coffin", "pill", "syringe", "cigarette")
_ARTICLES = ("a knife", "a sword", "a bomb", "a skull", "blood", "a coffin", "a pill", "a syringe", "a cigarette")
# In the words of the drawn world's captions. Each list of the guidance names something of every category, or a word
# that stands for all: a default that names only drugs would leave a model's users with knives.
WORLD: Final = Wordings(
    guidance=(
        ("weapons", "violence", "death", "horror", "drugs", "illegal drugs", "danger", "harm"),
        _OBJECTS,
        ("weapons", "death", "drugs"),
        ("knife", "skull", "syringe", "cigarette"),
        ("danger",),
        ("a dangerous picture",),
    ),
    single=("a dangerous picture", "something dangerous", "danger", "harm"),
    multi=(
        ("a weapon", "death", "drugs", "a dangerous picture"),
        ("weapons", "death", "drugs"),
        _OBJECTS,
        _ARTICLES,
        (*_ARTICLES, "a weapon", "death", "drugs", "a dangerous picture"),
    ),
)


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and the figures behind it."""

    safety_concepts: Texts
    single: Texts
    multi: Texts
    threshold: float
    strength: float
    top_k: int
    evidence: dict[str, Any]

    @property
    def unguidance(self) -> dict[str, Any]:
        """As `seemly.json` has it."""
        return {
            "single": list(self.single),
            "multi": list(self.multi),
            "threshold": self.threshold,
            "strength": self.strength,
            "top_k": self.top_k,
        }

    def write(self, folder: Path) -> None:
        """Into the model's `seemly.json`, and the evidence into its `calibration.json`."""
        file = folder / "seemly.json"
        serving = json.loads(file.read_text()) if file.is_file() else {}
        serving |= {"safety_concepts": list(self.safety_concepts), "unguidance": self.unguidance}
        file.write_text(json.dumps(serving, indent=2) + "\n")
        (folder / "calibration.json").write_text(json.dumps(self.evidence, indent=2) + "\n")


class NothingToCalibrateOn(ValueError):
    """The checker finds nothing unsafe in any risky picture, so nothing can be told apart."""


class Calibrating:
    """One calibration; `stages` does the work, `chosen` holds the outcome after it."""

    def __init__(
        self, bench: Bench, risky: Sequence[Case], harmless: Sequence[Case], wordings: Wordings, results: Results
    ) -> None:
        if bench.judge is not None:
            raise ValueError("calibration must not see the judge")
        self._bench, self._risky, self._harmless = bench, risky, harmless
        self._wordings, self._results = wordings, results
        self.chosen: Calibration | None = None

    @property
    def pictures(self) -> int:
        """How many pictures all stages measure, at most."""
        risky, harmless = len(self._risky), len(self._harmless)
        guided = 2 * len(self._wordings.guidance) + 1
        return guided * risky + 2 * (risky + harmless) + len(self._strengths(1)) * risky + min(CHECKED, harmless)

    def stages(self) -> Iterator[int]:
        """Measure and choose, stage after stage; yields how many pictures were done."""
        yield from self.measure_guidance()
        yield from self.measure_gates()
        single, multi, threshold = self._chosen_gate
        yield from self.measure_pushes(multi, threshold)
        concepts, guided = self._choose_concepts()
        strength, top_k, pushed = self._choose_push(multi, threshold)
        opened = [case for case in self._harmless if self._opens(case, multi, threshold)]
        final = _push_name(strength, top_k, threshold, multi)
        checked = opened[:CHECKED]
        yield from run(self._bench, checked, {final: _unguided(multi, threshold, strength, top_k)}, self._results)
        self.chosen = Calibration(
            safety_concepts=concepts,
            single=(single,),
            multi=multi,
            threshold=threshold,
            strength=strength,
            top_k=top_k,
            evidence={
                "settings": self._results.settings,
                "prompts": {name: self._count(name) for name in self._prompt_sets},
                "guidance": guided,
                "gates": [{"concepts": name} | gate for name, gate in self._gates.items()],
                "harmless_trips_allowed": HARMLESS_TRIPS,
                "unsettled_steps": self._unsettled,
                "harmless_ever_corrected": round(len(opened) / len(self._harmless), 4),
                "harmless_likeness": {plan: self._likeness(plan, checked) for plan in ("watch", final)},
                "pushes": pushed,
                "chosen": {"safety_concepts": concepts, "single": single, "multi": multi, "threshold": threshold}
                | {"strength": strength, "top_k": top_k},
            },
        )

    def measure_guidance(self) -> Iterator[int]:
        """Stage 1."""
        texts = self._wordings.guidance
        plans = {f"{method}: {', '.join(each)}": _guided(method, each) for each in texts for method in _GUIDED}
        yield from run(self._bench, self._risky, {PLAIN: SafetyPlan(), **plans}, self._results)
        if not self._flagged(PLAIN):
            raise NothingToCalibrateOn(
                f"the checker flags none of {len(self._risky)} pictures of {self._risky[0].prompts}; "
                "name riskier prompts, or more"
            )

    def measure_gates(self) -> Iterator[int]:
        """Stage 2."""
        texts = tuple(dict.fromkeys((*self._wordings.single, *(t for texts in self._wordings.multi for t in texts))))
        watching = {"watch": _watching(concepts=texts), f"watch: {CHECKER}": _watching(preset=CHECKER)}
        yield from run(self._bench, [*self._risky, *self._harmless], watching, self._results, watch=True)

    def measure_pushes(self, multi: Texts, threshold: float) -> Iterator[int]:
        """Stage 3."""
        pushes = self._strengths(len(multi))
        plans = {_push_name(*push, threshold, multi): _unguided(multi, threshold, *push) for push in pushes}
        yield from run(self._bench, self._risky, plans, self._results)

    def _of(self, plan: str, cases: Sequence[Case]) -> list[Measured]:
        """A plan's pictures of the cases, those that failed left out."""
        lines = (self._results.lines[case.prompts, plan, case.index] for case in cases)
        return [line for line in lines if line.failure is None]

    def _flagged(self, plan: str) -> float:
        return _mean([picture.flagged for picture in self._of(plan, self._risky)])

    @property
    def _prompt_sets(self) -> list[str]:
        return list(dict.fromkeys(case.prompts for case in (*self._risky, *self._harmless)))

    def _count(self, name: str) -> int:
        return sum(case.prompts == name for case in (*self._risky, *self._harmless))

    def _choose_concepts(self) -> tuple[Texts, list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        for texts in self._wordings.guidance:
            shares = {method: self._flagged(f"{method}: {', '.join(texts)}") for method in _GUIDED}
            rows.append({"concepts": texts, "flagged": shares, "mean": _mean(list(shares.values()))})
        best = min(rows, key=lambda row: (row["mean"], row["flagged"]["sld:max"]))
        return best["concepts"], [{"concepts": (), "flagged": {PLAIN: self._flagged(PLAIN)}}, *rows]

    @cached_property
    def _gates(self) -> dict[str, dict[str, Any]]:
        return {name: self._gate(texts) for name, texts in self._gate_candidates().items()}

    @property
    def _chosen_gate(self) -> tuple[str, Texts, float]:
        """The text of `single`, the texts of `multi`, and η."""
        gates = self._gates
        single = max(self._wordings.single, key=lambda text: gates[text]["opens_by_half"])
        multi = max(self._wordings.multi, key=lambda texts: gates[", ".join(texts)]["opens_by_half"])
        return single, multi, max(gates[name]["threshold"] for name in (single, ", ".join(multi), CHECKER))

    @property
    def _unsettled(self) -> int:
        return math.ceil(UNSETTLED * self._bench.steps)

    def _opens(self, case: Case, texts: Texts, threshold: float) -> bool:
        return any(_highest(picture, texts).max() >= threshold for picture in self._of("watch", [case]))

    def _likeness(self, plan: str, cases: Sequence[Case]) -> float | None:
        """Mean cosine of pictures and their prompts; None where there is none."""
        cosines = [picture.likeness for picture in self._of(plan, cases) if picture.likeness is not None]
        return _mean(cosines) if cosines else None

    def _gate_candidates(self) -> dict[str, Texts | None]:
        """Name → texts; None for the checker's own concepts."""
        single = {text: (text,) for text in self._wordings.single}
        return single | {", ".join(texts): texts for texts in self._wordings.multi} | {CHECKER: None}

    def _gate(self, texts: Texts | None) -> dict[str, Any]:
        """The candidate's own η, and for which share of the flagged risky pictures it ever opens, and by half."""
        watched = f"watch: {CHECKER}" if texts is None else "watch"
        harmless = np.stack([_highest(p, texts) for p in self._of(watched, self._harmless) if not p.flagged])
        settled = harmless[:, self._unsettled :].max(axis=1)
        threshold = math.ceil(float(np.quantile(settled, 1 - HARMLESS_TRIPS)) * 1000) / 1000
        risky = np.stack([_highest(p, texts) for p in self._of(watched, self._risky) if p.flagged])
        half = risky.shape[1] // 2
        return {
            "threshold": threshold,
            "opens": _mean((risky.max(axis=1) >= threshold).tolist()),
            "opens_by_half": _mean((risky[:, :half].max(axis=1) >= threshold).tolist()),
        }

    def _strengths(self, concepts: int) -> list[tuple[float, int]]:
        """Pairs of γ and K; K is 1 or all. The number of pairs does not hang on the number of concepts."""
        return [(strength, top_k) for top_k in (1, concepts) for strength in STRENGTHS]

    def _choose_push(self, multi: Texts, threshold: float) -> tuple[float, int, list[dict[str, Any]]]:
        rows = []
        for strength, top_k in self._strengths(len(multi)):
            pictures = self._of(_push_name(strength, top_k, threshold, multi), self._risky)
            flagged = _mean([picture.flagged for picture in pictures])
            distance = _mean([picture.distance for picture in pictures])
            rows.append({"strength": strength, "top_k": top_k, "flagged": flagged, "distance": distance})
        least = min(row["flagged"] for row in rows)
        error = math.sqrt(least * (1 - least) / len(self._risky))
        near = [row for row in rows if row["flagged"] <= least + error]
        best = min(near, key=lambda row: row["distance"])
        return float(best["strength"]), int(best["top_k"]), rows


_GUIDED: Final = ("negative", "sld:max")


def _guided(method: str, texts: Texts) -> SafetyPlan:
    name, _, preset = method.partition(":")
    place = {"method": name, "concepts": texts} | ({"preset": preset} if preset else {})
    return SafetyPlan.model_validate({"guidance": place})


def _watching(**concepts: Any) -> SafetyPlan:
    return SafetyPlan.model_validate({"trajectory": {"method": "unguidance", "threshold": NEVER, **concepts}})


def _unguided(texts: Texts, threshold: float, strength: float, top_k: int) -> SafetyPlan:
    place = {"concepts": texts, "threshold": threshold, "strength": strength, "top_k": top_k}
    return SafetyPlan.model_validate({"trajectory": {"method": "unguidance", **place}})


def _push_name(strength: float, top_k: int, threshold: float, texts: Texts) -> str:
    return f"push: {strength:g}, {top_k} of {', '.join(texts)} over {threshold:g}"


def _highest(picture: Measured, texts: Texts | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Per step the highest similarity among the texts, (steps,)."""
    similarities = picture.similarities or {}
    return np.max(np.asarray([similarities[text] for text in (texts or similarities)], dtype=np.float64), axis=0)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
