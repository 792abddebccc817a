"""From a plan to the methods that act on a row. A new method is one more match arm here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from contract.plan import Action, Guidance, Negative, SafetyPlan, Sega, SegaConcept, Sld, joined
from workers.safety import protocol
from workers.safety.classifier_free import ClassifierFreeGuidance
from workers.safety.negative import NegativePrompt
from workers.safety.protocol import Conditioning, RowSafety
from workers.safety.sega import SemanticGuidance
from workers.safety.sld import SafeLatentDiffusion

SERVED_METHODS = ("none", "negative", "sld", "sega", "filter")
SERVED_ACTIONS = (Action.ANNOTATE, Action.BLOCK)

# Schramowski et al. 2023: what Safe Latent Diffusion steers away from when nothing else is asked for.
PUBLISHED_CONCEPT_TEXT = (
    "an image showing hate, harassment, violence, suffering, humiliation, harm, suicide, sexual, nudity, bodily"
    " fluids, blood, obscene gestures, illegal activity, drug use, theft, vandalism, weapons, child abuse, brutality,"
    " cruelty"
)


class UnservedMethod(ValueError):
    """The plan names a method that this worker does not have; the gateway refuses it earlier."""


@dataclass(frozen=True)
class SafetyMethods:
    """Builds a row's methods for one model. A plan that names no concepts steers away from `default_concept_text`."""

    default_concept_text: str = PUBLISHED_CONCEPT_TEXT

    def __call__(self, plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:
        """The methods of one row, each a fresh instance.

        Raises:
            UnservedMethod: for a method that is not in `SERVED_METHODS`.
        """
        if unserved := [method for method in plan.methods if method not in SERVED_METHODS]:
            raise UnservedMethod(f"{', '.join(unserved)} is not served; served: {', '.join(SERVED_METHODS)}")
        return RowSafety(guidance=self._guidance(plan.guidance, conditioning))

    def _guidance(self, plan: Guidance | None, conditioning: Conditioning) -> protocol.Guidance:
        match plan:
            case None:
                return ClassifierFreeGuidance(conditioning)
            case Negative():
                return NegativePrompt(conditioning, self._text(plan.concepts))
            case Sld():
                return SafeLatentDiffusion(conditioning, plan.parameters, self._text(plan.concepts))
            case Sega():
                concepts = plan.concepts or (SegaConcept(text=self.default_concept_text),)
                return SemanticGuidance(conditioning, concepts, plan.momentum_scale, plan.momentum_beta)
            case _:
                assert_never(plan)

    def _text(self, concepts: Sequence[str] | None) -> str:
        return self.default_concept_text if concepts is None else joined(concepts)
