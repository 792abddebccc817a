"""Calibrates a model's safety methods: concept texts for the guidance, and texts, η, γ and K for unguidance.

The judge takes no part in this, nor do the prompts and seeds that measuring uses: what is chosen here leans on the
model's own checker and CLIP alone, so that a measurement by the judge is a test and not a look back.

1. Guidance: of the candidate wordings, which stand in order of preference, the first under which the checker flags as
   few pictures of risky prompts, over a negative prompt and SLD (max) together, as under the best, but for
   chance.
2. The gate's wordings, and an η for every start: every step's similarities are watched on harmless and on risky
   pictures. Early predicted pictures are mush in which CLIP sees anything, and harmless ones find their own way out of
   it. So for every start a wording has its own η: the lowest that leaves all but `HARMLESS_TRIPS` of the harmless
   pictures alone from there on (harmless: the prompt is, and the checker does not flag the picture). The wordings are
   those whose gates open in time, by `IN_TIME` of the steps, for the most risky pictures that the checker flags, over
   all starts. At each start the model's one η is the highest of its presets'.
   The start: an early one has so high an η that corrections end while the object is still there, a late one finds it
   finished. That is taken under which a trial push leaves CLIP seeing least of the concepts at the last step.
3. The push, γ and K: those under which most risky pictures end below η, as harmless ones do, but for chance; of these
   the pair that moves the pictures least. (Whether the checker flags them says less: the push follows the
   gradient of the checker's own CLIP, and a moderate one is enough to get under its thresholds.) What it does to
   harmless pictures that the gate opens for is measured and told.
"""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np

from contract.plan import SafetyPlan
from lab.evaluation.prompts import Case
from lab.evaluation.run import PLAIN, Bench, Measured, Results, run
from lab.evaluation.trials import GUIDED, ChosenGate, Gate, Push, guided, step_at, watching
from lab.evaluation.wordings import Texts, Wordings

HARMLESS_TRIPS: Final = 0.02  # of harmless calibration pictures, those that the gate may open for
STARTS: Final = (0.0, 0.2, 0.3, 0.4, 0.5)  # of the steps, from where on the gate may open
TRIAL: Final = (80.0, 1)  # γ and K
IN_TIME: Final = 0.6  # of the steps
CHECKED: Final = 24  # harmless pictures, of those the gate opens for, on which the chosen push is checked
STRENGTHS: Final = (20.0, 40.0, 80.0, 160.0)
CHECKER: Final = "filter"  # unguidance's preset over the checker's own concepts


@dataclass(frozen=True)
class Calibration:
    """What was chosen, and the figures behind it."""

    safety_concepts: Texts
    single: Texts
    multi: Texts
    settled_after: float
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
            "settled_after": self.settled_after,
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
        pushes = len(STARTS) + len(self._strengths(1))
        return guided * risky + 2 * (risky + harmless) + pushes * risky + min(CHECKED, harmless)

    def stages(self) -> Iterator[int]:
        """Measure and choose, stage after stage; yields how many pictures were done."""
        yield from self.measure_guidance()
        yield from self.measure_gates()
        trials = [Push(gate, *TRIAL) for gate in self._gates_by_start]
        yield from self.measure_pushes(trials)
        gate, started = self._choose_gate(trials)
        yield from self.measure_pushes([Push(gate, *each) for each in self._strengths(len(gate.multi))])
        concepts, guided = self._choose_concepts()
        (strength, top_k), pushed = self._choose_push(gate)
        opened = [case for case in self._harmless if self._opens(case, gate)]
        final = Push(gate, strength, top_k)
        checked = opened[:CHECKED]
        yield from run(self._bench, checked, {final.name: final.plan(self._bench.steps)}, self._results, watch=True)
        chosen = asdict(gate) | {"strength": strength, "top_k": top_k}
        self.chosen = Calibration(
            safety_concepts=concepts,
            single=(gate.single,),
            multi=gate.multi,
            settled_after=gate.settled_after,
            threshold=gate.threshold,
            strength=strength,
            top_k=top_k,
            evidence={
                "settings": self._results.settings,
                "prompts": {name: self._count(name) for name in self._prompt_sets},
                "guidance": guided,
                "gates": [
                    {"settled_after": start, "concepts": name} | asdict(fitted)
                    for start in STARTS
                    for name, fitted in self._gates[start].items()
                ],
                "harmless_trips_allowed": HARMLESS_TRIPS,
                "starts": started,
                "harmless_ever_corrected": round(len(opened) / len(self._harmless), 4),
                "harmless_likeness": {plan: self._likeness(plan, checked) for plan in ("watch", final.name)},
                "pushes": pushed,
                "chosen": {"safety_concepts": concepts} | chosen,
            },
        )

    def measure_guidance(self) -> Iterator[int]:
        """Stage 1."""
        texts = self._wordings.guidance
        plans = {f"{method}: {', '.join(each)}": guided(method, each) for each in texts for method in GUIDED}
        yield from run(self._bench, self._risky, {PLAIN: SafetyPlan(), **plans}, self._results)
        if not self._flagged(PLAIN):
            raise NothingToCalibrateOn(
                f"the checker flags none of {len(self._risky)} pictures of {self._risky[0].prompts}; "
                "name riskier prompts, or more"
            )

    def measure_gates(self) -> Iterator[int]:
        """Stage 2."""
        texts = tuple(dict.fromkeys((*self._wordings.single, *(t for texts in self._wordings.multi for t in texts))))
        plans = {"watch": watching(concepts=texts), f"watch: {CHECKER}": watching(preset=CHECKER)}
        yield from run(self._bench, [*self._risky, *self._harmless], plans, self._results, watch=True)

    def measure_pushes(self, pushes: Sequence[Push]) -> Iterator[int]:
        """Stage 3, and the starts of stage 2."""
        plans = {push.name: push.plan(self._bench.steps) for push in pushes}
        yield from run(self._bench, self._risky, plans, self._results, watch=True)

    def _of(self, plan: str, cases: Sequence[Case]) -> list[Measured]:
        """A plan's pictures of the cases, those that failed left out."""
        lines = (self._results.lines[case.prompts, plan, case.index] for case in cases)
        return [line for line in lines if line.failure is None]

    def _flagged(self, plan: str) -> float:
        return _mean([bool(picture.flagged) for picture in self._of(plan, self._risky)])

    @property
    def _prompt_sets(self) -> list[str]:
        return list(dict.fromkeys(case.prompts for case in (*self._risky, *self._harmless)))

    def _count(self, name: str) -> int:
        return sum(case.prompts == name for case in (*self._risky, *self._harmless))

    def _choose_concepts(self) -> tuple[Texts, list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        for texts in self._wordings.guidance:
            shares = {method: self._flagged(f"{method}: {', '.join(texts)}") for method in GUIDED}
            rows.append({"concepts": texts, "flagged": shares, "mean": _mean(list(shares.values()))})
        least = min(float(row["mean"]) for row in rows)
        bound = least + _chance(least, len(GUIDED) * len(self._risky))
        best = next(row for row in rows if row["mean"] <= bound)
        return best["concepts"], [{"concepts": (), "flagged": {PLAIN: self._flagged(PLAIN)}}, *rows]

    @cached_property
    def _gates(self) -> dict[float, dict[str, Gate]]:
        """Per start, the gate of every candidate by its name."""
        candidates = self._gate_candidates().items()
        return {start: {name: self._gate(texts, start) for name, texts in candidates} for start in STARTS}

    @property
    def _gates_by_start(self) -> list[ChosenGate]:
        def opens(name: str) -> float:
            return sum(self._gates[start][name].opens_in_time for start in STARTS)

        single = max(self._wordings.single, key=opens)
        multi = max(self._wordings.multi, key=lambda texts: opens(", ".join(texts)))
        presets = (single, ", ".join(multi), CHECKER)
        return [
            ChosenGate(single, multi, start, max(self._gates[start][name].threshold for name in presets))
            for start in STARTS
        ]

    def _choose_gate(self, trials: Sequence[Push]) -> tuple[ChosenGate, list[dict[str, Any]]]:
        rows = [
            {"settled_after": trial.gate.settled_after, "threshold": trial.gate.threshold} | self._left(trial)
            for trial in trials
        ]
        best = min(range(len(trials)), key=lambda index: float(rows[index]["similarity_left"]))
        return trials[best].gate, rows

    def _step_at(self, share: float) -> int:
        return step_at(share, self._bench.steps)

    def _opens(self, case: Case, gate: ChosenGate) -> bool:
        start = self._step_at(gate.settled_after)
        return any(_highest(each, gate.multi)[start:].max() >= gate.threshold for each in self._of("watch", [case]))

    def _likeness(self, plan: str, cases: Sequence[Case]) -> float | None:
        """Mean cosine of pictures and their prompts; None where there is none."""
        cosines = [picture.likeness for picture in self._of(plan, cases) if picture.likeness is not None]
        return _mean(cosines) if cosines else None

    def _gate_candidates(self) -> dict[str, Texts | None]:
        """Name → texts; None for the checker's own concepts."""
        single = {text: (text,) for text in self._wordings.single}
        return single | {", ".join(texts): texts for texts in self._wordings.multi} | {CHECKER: None}

    def _gate(self, texts: Texts | None, start: float) -> Gate:
        watched, first, last = "watch" if texts else f"watch: {CHECKER}", self._step_at(start), self._step_at(IN_TIME)
        harmless = np.stack([_highest(p, texts)[first:] for p in self._of(watched, self._harmless) if not p.flagged])
        threshold = math.ceil(float(np.quantile(harmless.max(axis=1), 1 - HARMLESS_TRIPS)) * 1000) / 1000
        risky = np.stack([_highest(p, texts)[first:] for p in self._of(watched, self._risky) if p.flagged])
        in_time = risky[:, : max(1, last - first)]
        return Gate(
            threshold,
            opens=_mean((risky.max(axis=1) >= threshold).tolist()),
            opens_in_time=_mean((in_time.max(axis=1) >= threshold).tolist()),
        )

    def _strengths(self, concepts: int) -> list[tuple[float, int]]:
        """Pairs of γ and K; K is 1 or all. The number of pairs does not hang on the number of concepts."""
        return [(strength, top_k) for top_k in (1, concepts) for strength in STRENGTHS]

    def _left(self, push: Push) -> dict[str, float]:
        """What CLIP still sees of the concepts at the last step, and what else a push comes to."""
        pictures = self._of(push.name, self._risky)
        left = [float(_highest(picture, push.gate.multi)[-1]) for picture in pictures]
        return {
            "similarity_left": _mean(left),
            "below_threshold": _mean([each < push.gate.threshold for each in left]),
            "flagged": _mean([bool(picture.flagged) for picture in pictures]),
            "distance": _mean([picture.distance for picture in pictures]),
        }

    def _choose_push(self, gate: ChosenGate) -> tuple[tuple[float, int], list[dict[str, Any]]]:
        rows = [
            {"strength": strength, "top_k": top_k} | self._left(Push(gate, strength, top_k))
            for strength, top_k in self._strengths(len(gate.multi))
        ]
        most = max(row["below_threshold"] for row in rows)
        bound = most - _chance(most, len(self._risky))
        near = [row for row in rows if row["below_threshold"] >= bound]
        best = min(near, key=lambda row: row["distance"])
        return (float(best["strength"]), int(best["top_k"])), rows


def _highest(picture: Measured, texts: Texts | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Per step the highest similarity among the texts, (steps,)."""
    similarities = picture.similarities or {}
    return np.max(np.asarray([similarities[text] for text in (texts or similarities)], dtype=np.float64), axis=0)


def _chance(share: float, count: int) -> float:
    """By how much a share of so many may be off: two standard errors (Agresti and Coull 1998, so that 0 and 1 err)."""
    near = (share * count + 2) / (count + 4)
    return 2 * math.sqrt(near * (1 - near) / (count + 4))


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4)
