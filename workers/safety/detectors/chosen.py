"""From the setting to detectors; pins are checked before anything is scored."""

from collections.abc import Sequence

from contract.model import DetectorInfo
from workers.safety.detectors.choices import DetectorChoice, NudeNetChoice, Pinned, Q16Choice
from workers.safety.detectors.detector import NamedDetector, UnusableDetector
from workers.safety.detectors.nudenet import NudeNet
from workers.safety.detectors.panel import Panel
from workers.safety.detectors.q16 import Q16
from workers.safety.filter import ConceptFilter


def panel_of(choices: Sequence[DetectorChoice], own: ConceptFilter, limit_s: float) -> Panel:
    """The panel of a worker.

    Raises:
        UnusableDetector: a detector cannot be had, is chosen twice, scores what another scores, or is not as pinned.
    """
    names = [choice.name for choice in choices]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UnusableDetector(f"chosen more than once: {', '.join(repeated)}")
    others: list[NamedDetector] = []
    pins: dict[str, str | None] = {choice.name: choice.sha256 for choice in choices}
    for choice in choices:
        match choice:
            case NudeNetChoice():
                others.append(NudeNet(choice.file, choice.threshold))
            case Q16Choice():
                others.append(Q16(choice.file, own.embed, own.dimension, own.infos[0].version, choice.threshold))
            case Pinned():
                pass  # the checkpoint has it anyway
    infos = [info for detector in (own, *others) for info in detector.infos]
    _check_pins(pins, infos)
    concepts = [name for info in infos for name in info.concepts]
    if twice := sorted({name for name in concepts if concepts.count(name) > 1}):
        raise UnusableDetector(f"more than one detector scores: {', '.join(twice)}")
    return Panel(own, others, limit_s)


def _check_pins(pins: dict[str, str | None], infos: Sequence[DetectorInfo]) -> None:
    there = {info.name: info.sha256 for info in infos}
    for name, sha256 in pins.items():
        if name not in there:
            raise UnusableDetector(f"{name} is pinned, and the model has none")
        if sha256 not in (None, there[name]):
            raise UnusableDetector(
                f"{name} has the SHA-256 {there[name]}, not {sha256} as pinned; put those weights back, or pin these"
            )
