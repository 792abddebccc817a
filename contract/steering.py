"""The methods that act while a picture is made: on its prompt, the weights, the noise, and what it is to become."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator

from contract.concept_text import MAX_CONCEPTS, ConceptText, ConceptTexts, distinct
from contract.sld import PRESETS, SldParameters
from contract.strict import Strict

VariantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

MAX_STEPS = 150


class Safree(Strict):
    """SAFREE: projects the prompt's token embeddings away from the concepts' subspace."""

    method: Literal["safree"] = "safree"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the published default.")


class Erased(Strict):
    """Erased weights: a variant of the model's UNet (ESD, SDD, UCE, or any diffusers UNet)."""

    method: Literal["erased"] = "erased"
    variant: VariantName


class Negative(Strict):
    """Negative prompt: the concept text stands in for the empty prompt of classifier-free guidance."""

    method: Literal["negative"] = "negative"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the published default.")


class Sld(Strict):
    """Safe Latent Diffusion. A preset sets every parameter; a parameter that is given replaces the preset's."""

    method: Literal["sld"]
    preset: Literal["weak", "medium", "strong", "max"] = "medium"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the published default.")
    warmup_steps: int | None = Field(None, ge=0, lt=MAX_STEPS)
    scale: float | None = Field(None, ge=0, le=20_000, description="s_S, the strength of the element-wise mask.")
    threshold: float | None = Field(None, ge=0, le=1, description="lambda, the mask's threshold.")
    momentum_scale: float | None = Field(None, ge=0, le=1, description="s_m.")
    momentum_beta: float | None = Field(None, ge=0, lt=1, description="beta.")

    @property
    def parameters(self) -> SldParameters:
        """The preset's numbers, with those that are given in their place."""
        own = {name: value for name in SldParameters.model_fields if (value := getattr(self, name)) is not None}
        return PRESETS[self.preset].model_copy(update=own)


class SegaConcept(Strict):
    """One edit of SEGA: a concept removed from the picture or added to it."""

    text: ConceptText
    direction: Literal["remove", "add"] = "remove"
    scale: float = Field(5.0, ge=0, le=100)
    threshold: float = Field(0.9, ge=0, lt=1, description="The quantile under which an element is left alone.")
    warmup_steps: int = Field(10, ge=0, lt=MAX_STEPS)
    cooldown_step: int | None = Field(None, ge=1, le=MAX_STEPS, description="The edit ends at this step; null: never.")


def _distinct_edits(edits: tuple[SegaConcept, ...]) -> tuple[SegaConcept, ...]:
    distinct(tuple(edit.text for edit in edits))
    return edits


SegaConcepts = Annotated[
    tuple[SegaConcept, ...], Field(min_length=1, max_length=MAX_CONCEPTS), AfterValidator(_distinct_edits)
]


class Sega(Strict):
    """SEGA, semantic guidance over several concepts."""

    method: Literal["sega"]
    concepts: SegaConcepts | None = None
    momentum_scale: float = Field(0.1, ge=0, le=1)
    momentum_beta: float = Field(0.4, ge=0, lt=1)


class Unguidance(Strict):
    """Safe sampling: the predicted clean latent is corrected while the concepts' probability is over a threshold."""

    method: Literal["unguidance"] = "unguidance"
    preset: Literal["single", "multi", "filter"] = "multi"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the preset's.")
    threshold: float | None = Field(None, ge=-1, le=1, description="eta, the cosine from which a step is corrected.")
    strength: float | None = Field(None, ge=0, le=10_000, description="gamma, the length of the correction.")
    top_k: int | None = Field(None, ge=1, le=64, description="Mean of the K largest cosines; null: of all.")
    schedule: Literal["constant", "window", "linear"] | None = Field(
        None,
        description="How the strength runs: the same at every step, the same from start_step to end_step, or falling"
        " from the one to 0 at the other. Null takes the model's own: the same from the step on at which, by its"
        " calibration, predicted pictures are settled.",
    )
    start_step: int = Field(0, ge=0, lt=MAX_STEPS)
    end_step: int | None = Field(None, ge=1, le=MAX_STEPS, description="Null: the last step.")

    @field_validator("top_k")
    @classmethod
    def _there_are_as_many(cls, value: int | None, info: ValidationInfo) -> int | None:
        concepts = info.data.get("concepts")
        if value is not None and concepts is not None and value > len(concepts):
            raise ValueError(f"is more than the {len(concepts)} concepts; take fewer, or null for all of them")
        return value


Guidance = Annotated[Negative | Sld | Sega, Field(discriminator="method")]
