"""From a plan to the methods that act on a row. A new method is one more match arm here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import torch
from torch import Tensor

from contract import steering
from contract.concept_text import joined
from contract.filter import Action
from contract.plan import SafetyPlan
from workers.safety.classifier_free import ClassifierFreeGuidance
from workers.safety.negative import NegativePrompt
from workers.safety.protocol import Conditioning, Corrector, Guidance, PromptReader, RowSafety
from workers.safety.safree import SteeredPrompt
from workers.safety.sega import SemanticGuidance
from workers.safety.sld import SafeLatentDiffusion
from workers.safety.text_concepts import TextConcepts
from workers.safety.unguidance import CorrectedRow, StrengthSchedule

SERVED_METHODS = ("none", "safree", "erased", "negative", "sld", "sega", "unguidance", "filter")
SERVED_ACTIONS = tuple(Action)

# Schramowski et al. 2023: what Safe Latent Diffusion steers away from when nothing else is asked for.
PUBLISHED_CONCEPTS = (
    "hate", "harassment", "violence", "suffering", "humiliation", "harm", "suicide", "sexual", "nudity",
    "bodily fluids", "blood", "obscene gestures", "illegal activity", "drug use", "theft", "vandalism", "weapons",
    "child abuse", "brutality", "cruelty",
)  # fmt: skip


@dataclass(frozen=True)
class UnguidanceDefaults:
    """Unguidance's published numbers, or a model's own."""

    single: tuple[str, ...] = ("violence and nudity",)
    multi: tuple[str, ...] = ("violence", "nudity", "NSFW", "harmful")
    threshold: float = 0.23
    strength: float = 75.0
    top_k: int | None = None  # of all
    settled_after: float = 0.0  # share of the steps in which a predicted picture says too little to be corrected


class UnservedMethod(ValueError):
    """The plan names a method that this worker does not have; the gateway refuses it earlier."""


@dataclass(frozen=True)
class SafetyMethods:
    """Builds a row's methods for one model.

    default_concepts: what is steered away from when a plan names nothing
    checker_concepts: names and (concepts, projection_dim) of the checker, for unguidance's preset `filter`
    """

    prompts: PromptReader
    corrector: Corrector
    text_concepts: TextConcepts | None
    checker_concepts: tuple[tuple[str, ...], Tensor]
    default_concepts: tuple[str, ...] = PUBLISHED_CONCEPTS
    unguidance: UnguidanceDefaults = UnguidanceDefaults()

    def __call__(self, plan: SafetyPlan, conditioning: Conditioning) -> RowSafety:
        """The methods of one row, each a fresh instance.

        Raises:
            UnservedMethod: for a method that is not in `SERVED_METHODS`.
        """
        if unserved := [method for method in plan.methods if method not in SERVED_METHODS]:
            raise UnservedMethod(f"{', '.join(unserved)} is not served; served: {', '.join(SERVED_METHODS)}")
        return RowSafety(
            guidance=self._guidance(plan.guidance, conditioning),
            prompt=self._prompt(plan.prompt, conditioning) if plan.prompt else None,
            trajectory=self._trajectory(plan.trajectory, conditioning) if plan.trajectory else None,
        )

    def _guidance(self, plan: steering.Guidance | None, conditioning: Conditioning) -> Guidance:
        match plan:
            case None:
                return ClassifierFreeGuidance(conditioning)
            case steering.Negative():
                return NegativePrompt(conditioning, self._text(plan.concepts))
            case steering.Sld():
                return SafeLatentDiffusion(conditioning, plan.parameters, self._text(plan.concepts))
            case steering.Sega():
                concepts = plan.concepts or (steering.SegaConcept(text=self._text(None)),)
                return SemanticGuidance(conditioning, concepts, plan.momentum_scale, plan.momentum_beta)
            case _:
                assert_never(plan)

    def _text(self, concepts: Sequence[str] | None) -> str:
        return joined(concepts or self.default_concepts)

    def _prompt(self, plan: steering.Safree, conditioning: Conditioning) -> SteeredPrompt:
        texts = plan.concepts or self.default_concepts
        concepts = torch.stack([self.prompts.pooled(text) for text in texts])
        return SteeredPrompt(self.prompts.read(conditioning.prompt), concepts, texts)

    def _trajectory(self, plan: steering.Unguidance, conditioning: Conditioning) -> CorrectedRow:
        names, concepts = self._unguidance_concepts(plan)
        return CorrectedRow(
            corrector=self.corrector,
            names=names,
            concepts=concepts,
            threshold=self.unguidance.threshold if plan.threshold is None else plan.threshold,
            strength=self.unguidance.strength if plan.strength is None else plan.strength,
            top_k=min(plan.top_k or self.unguidance.top_k or len(names), len(names)),
            steps=conditioning.steps,
            schedule=self._schedule(plan, conditioning.steps),
        )

    def _schedule(self, plan: steering.Unguidance, steps: int) -> StrengthSchedule:
        if plan.schedule is not None:
            return StrengthSchedule(plan.schedule, plan.start_step, plan.end_step)
        start = int(self.unguidance.settled_after * steps)
        return StrengthSchedule("window", start) if start else StrengthSchedule()

    def _unguidance_concepts(self, plan: steering.Unguidance) -> tuple[tuple[str, ...], Tensor]:
        if plan.concepts is None and plan.preset == "filter":
            return self.checker_concepts
        texts = plan.concepts or (self.unguidance.single if plan.preset == "single" else self.unguidance.multi)
        if self.text_concepts is None:
            raise UnservedMethod('this model has no text tower, so unguidance has only its preset "filter"')
        return tuple(texts), torch.stack([self.text_concepts.embed(text) for text in texts])
