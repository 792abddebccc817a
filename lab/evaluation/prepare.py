"""From what a run is asked for to all that it needs, with everything checked before the first picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch

from contract.plan import SafetyPlan
from lab.evaluation import prompts
from lab.evaluation.manifest import (
    Asked,
    Detector,
    Found,
    Manifest,
    Under,
    manifest_of,
    pictures_of,
    prompts_found,
    reference_of,
)
from lab.evaluation.measures.choose import Chooser, check, judge_version
from lab.evaluation.measures.looking import Looking
from lab.evaluation.measures.measure import Measure
from lab.evaluation.prompts import Case
from lab.evaluation.run import Bench, OtherRun, Results, run
from seemly.prompts import UnusablePrompts

MOST_GUIDANCE: Final = 30  # as of requests


@dataclass(frozen=True)
class Prepared:
    """A run that can begin."""

    bench: Bench
    cases: Sequence[Case]
    plans: Mapping[str, SafetyPlan]
    results: Results
    observer: Looking
    manifest: Manifest

    @property
    def pictures(self) -> int:
        """How many there will be, those made before included."""
        return len(self.cases) * len(self.plans)

    def run(self) -> Iterator[int]:
        """Makes and measures; yields how many pictures were done."""
        yield from run(self.bench, self.cases, self.plans, self.results, observer=self.observer)


def prepare(asked: Asked, out: Path, *, keep_pictures: bool = False, again: Manifest | None = None) -> Prepared:
    """Load and check everything, and write the manifest beside `out`.

    Args:
        again: what this run has to find as it was; it runs with as many threads

    Raises:
        UnusableModel, UnusablePrompts, UnusableMeasure, UnusableVariant: one of what was asked for cannot be had.
        OtherRun: `out` was begun otherwise, or `again` cannot be repeated.
    """
    check(asked.measures, asked.weights, asked.concepts)
    cases = cases_of(asked)
    if again is not None:
        torch.set_num_threads(again.under.threads)
    bench = Bench.load(asked.model, asked.steps, asked.guidance_scale, variants=Path(asked.variants))
    cases = _sized(cases, bench, asked.native_size)
    device = bench.model.parts.device
    measures = Chooser(asked.model, bench.judge, asked.weights, device).all_of(asked.measures, asked.concepts)
    found = _found(asked, bench, cases, measures)
    if again is not None and (differences := found.differences(again.found)):
        raise OtherRun(
            "this would give other numbers than the manifest's run; what differs:\n" + "\n".join(differences)
        )
    before = _begun(out)
    whole = asked if before is None else _joined(asked, before, found, out)
    if before is not None:
        found = _found(whole, bench, all_cases := _sized(cases_of(whole), bench, asked.native_size), measures)
        _check_prompts(before, all_cases, out)
    manifest = Manifest(asked=whole, found=found, under=Under.here(device))
    goes_on = out.exists() and out.stat().st_size > 0
    results = Results(out, _head(bench, asked, measures))
    for measure in measures:
        file = reference_of(out, measure.name)
        if not (goes_on and file.exists()) and measure.reference is not None:
            measure.reference.write(file)
    manifest.write(manifest_of(out))
    observer = Looking(measures, pictures_of(out) if keep_pictures else None)
    return Prepared(bench, cases, asked.plans, results, observer, manifest)


def cases_of(asked: Asked) -> list[Case]:
    """The cases of every source.

    Raises:
        UnusablePrompts: one cannot be read, or two have one name.
    """
    sets = [prompts.load(each.source, each.limit) for each in asked.prompts]
    names = [cases[0].prompts for cases in sets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UnusablePrompts(f"two sets of prompts are called {', '.join(repeated)}; rename a file")
    return [case for cases in sets for case in cases]


def _sized(cases: Sequence[Case], bench: Bench, native_size: bool) -> list[Case]:
    """The cases, all of sizes that the model makes."""
    if native_size:
        cases = [replace(case, width=None, height=None) for case in cases]
    info = bench.model.info
    for case in cases:
        sides = [side for side in (case.width, case.height) if side is not None]
        where = f"{case.prompts}, prompt {case.index + 1}"
        if len(sides) == 1:
            raise UnusablePrompts(f"{where} gives one side of the picture only; give width and height, or neither")
        if any(side % info.size_multiple_px or not info.min_size_px <= side <= info.max_size_px for side in sides):
            raise UnusablePrompts(
                f"{where}: {info.source} makes no picture of {case.width} × {case.height} px, only multiples of"
                f" {info.size_multiple_px} px within {info.min_size_px} to {info.max_size_px}; say --native-size to"
                " make all in its own size"
            )
        if case.guidance_scale is not None and not 0 <= case.guidance_scale <= MOST_GUIDANCE:
            raise UnusablePrompts(
                f"{where}: the guidance scale {case.guidance_scale:g} is not within 0 to {MOST_GUIDANCE}"
            )
    return list(cases)


def _found(asked: Asked, bench: Bench, cases: Sequence[Case], measures: Sequence[Measure]) -> Found:
    names = {plan.weights.variant for plan in asked.plans.values() if plan.weights}
    detectors = {"clip-checker": Detector(version=bench.model.info.weights_sha256[:12])}
    if bench.judge is not None:
        detectors["judge"] = Detector(version=judge_version(asked.model))
    detectors |= {each.name: Detector(version=each.version, figures=each.figures) for each in measures}
    return Found(
        **bench.settings,
        prompts=prompts_found(cases),
        variants={name: str(bench.variants.get(name).description["weights_sha256"]) for name in sorted(names)},
        detectors=detectors,
    )


def _begun(out: Path) -> Manifest | None:
    """What the file was begun with, if it was."""
    if not (out.exists() and manifest_of(out).exists()):
        return None
    try:
        return Manifest.read(manifest_of(out))
    except ValueError as error:
        raise OtherRun(f"{manifest_of(out)} cannot be read: {error}; name another file") from None


def _joined(asked: Asked, before: Manifest, found: Found, out: Path) -> Asked:
    """What the file was begun with and what is asked for now."""
    try:
        whole = asked.joined(before.asked)
    except ValueError as error:
        raise OtherRun(f"{out} was begun otherwise: {error}; name another file") from None
    for name, sha256 in before.found.variants.items():
        if found.variants.get(name, sha256) != sha256:
            raise OtherRun(f"{out} was begun with other weights of the variant {name!r}; name another file")
    return whole


def _check_prompts(before: Manifest, cases: Sequence[Case], out: Path) -> None:
    """The prompts that were asked for before are the first of those of now."""
    for name, those in before.found.prompts.items():
        same = [case for case in cases if case.prompts == name][: those.count]
        if prompts_found(same).get(name) != those:
            raise OtherRun(f"{out} was begun with other prompts called {name!r}; name another file")


def _head(bench: Bench, asked: Asked, measures: Sequence[Measure]) -> dict[str, object]:
    """The settings line of the results. What runs were always measured by leaves no trace in it."""
    head: dict[str, object] = dict(bench.settings)
    if measures:
        head["measures"] = {measure.name: measure.version for measure in measures}
    return head | ({"native_size": True} if asked.native_size else {})
