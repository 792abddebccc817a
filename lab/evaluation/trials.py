"""The plans that a calibration tries, each saying all of its numbers: none hangs on what the model's file says now."""

from dataclasses import dataclass
from typing import Any, Final

from contract.plan import SafetyPlan
from lab.evaluation.wordings import Texts

GUIDED: Final = ("negative", "sld:max")
NEVER: Final = 1.0  # a threshold that no cosine passes: unguidance only watches


@dataclass(frozen=True)
class Gate:
    """A wording's own η, and for which share of the flagged risky pictures it opens, ever and in time."""

    threshold: float
    opens: float
    opens_in_time: float


@dataclass(frozen=True)
class ChosenGate:
    """The wordings of two presets, from which share of the steps on they act, and the η of all presets."""

    single: str
    multi: Texts
    settled_after: float
    threshold: float


@dataclass(frozen=True)
class Push:
    """Unguidance with the gate's `multi` texts, and γ and K."""

    gate: ChosenGate
    strength: float
    top_k: int

    @property
    def name(self) -> str:
        """What its results are kept under."""
        gate = self.gate
        over = f"over {gate.threshold:g} from {gate.settled_after:g}"
        return f"push: {self.strength:g}, {self.top_k} of {', '.join(gate.multi)} {over}"

    def plan(self, steps: int) -> SafetyPlan:
        """As a request over so many steps would say it."""
        start = step_at(self.gate.settled_after, steps)
        place = {
            "method": "unguidance",
            "concepts": self.gate.multi,
            "threshold": self.gate.threshold,
            "strength": self.strength,
            "top_k": self.top_k,
            "schedule": "window" if start else "constant",
            "start_step": start,
        }
        return SafetyPlan.model_validate({"trajectory": place})


def step_at(share: float, steps: int) -> int:
    """The first step after a share of them, as the worker counts it."""
    return int(share * steps)


def guided(method: str, texts: Texts) -> SafetyPlan:
    """One of `GUIDED` with these concepts."""
    name, _, preset = method.partition(":")
    place = {"method": name, "concepts": texts} | ({"preset": preset} if preset else {})
    return SafetyPlan.model_validate({"guidance": place})


def watching(**concepts: Any) -> SafetyPlan:
    """Unguidance whose gate never opens."""
    return SafetyPlan.model_validate({"trajectory": {"method": "unguidance", "threshold": NEVER, **concepts}})
