"""What a worker announces about the model it serves: all that the gateway knows of models."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, StringConstraints

from contract.effect import MeasuredEffects
from contract.filter import Action
from contract.gate import Assessment
from contract.request import Scheduler
from contract.steering import VariantName
from contract.strict import Strict

# A setting: what a model is served as. It names a queue, and stands before a `|` among the ready workers.
ServedName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]


class ErasureEffect(Strict):
    """One figure before and after an erasure: the same prompts and seeds on the base model and on the variant."""

    measure: str
    prompts: str
    pictures: int = Field(ge=1)
    before: float
    after: float


class VariantStatus(StrEnum):
    """Whether requests may ask for a variant."""

    CANDIDATE = "candidate"  # made, not promoted yet
    AVAILABLE = "available"
    RETIRED = "retired"


class VariantInfo(Strict):
    """Erased weights that a worker has; asked for as `erased:NAME` while they are available."""

    name: VariantName
    recipe: str = Field(description="How they were made: esd-x, esd-x-strict, esd-u, sdd, uce or imported.")
    concepts: tuple[str, ...] = Field(description="What was erased.")
    preserved: tuple[str, ...] = Field((), description="What was held on to.")
    changes: str = Field(description="kv_only, attn2_only or full; kv_only shares UNet calls with all other rows.")
    weights_sha256: str
    status: VariantStatus = Field(VariantStatus.AVAILABLE, description="Requests for any other are refused.")
    effects: tuple[ErasureEffect, ...] = ()
    gate: Assessment | None = Field(None, description="Null: held against none.")


class DetectorInfo(Strict):
    """A detector that looks at every picture."""

    name: str
    version: str
    sha256: str = Field(description="Of its weights and their settings.")
    concepts: tuple[str, ...] = Field((), description="What it scores every picture for; empty: what requests name.")


class ModelInfo(Strict):
    """A model's bounds and defaults. Sizes in pixels; a side must be a multiple of `size_multiple_px`."""

    name: str
    source: str = Field(description="Local folder or hub id the worker loaded.")
    revision: str | None = None
    weights_sha256: str
    default_steps: int
    default_guidance_scale: float
    native_width_px: int
    native_height_px: int
    min_size_px: int
    max_size_px: int
    size_multiple_px: int
    max_tokens: int = Field(description="Tokens of a prompt, the begin and end marks included.")
    tokenizer_sha256: str = Field(description="Names the key that holds the tokenizer's `tokenizer.json`.")
    schedulers: tuple[Scheduler, ...]
    methods: tuple[str, ...] = Field(description="Safety methods this worker serves.")
    actions: tuple[Action, ...] = Field(description="Actions its filter can take.")
    concepts: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="What every picture is scored for, by all detectors."
    )
    detectors: tuple[DetectorInfo, ...] = ()
    default_concepts: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="What methods steer away from when a plan names no concepts."
    )
    scores_text_concepts: bool = Field(description="Whether the filter takes concepts given as text.")
    text_concept_threshold: float | None = Field(None, description="A threshold that suits them; null: not measured.")
    measured: MeasuredEffects | None = Field(None, description="What plans came to on it; null: not measured.")
    variants: tuple[VariantInfo, ...] = ()
    refused_variants: dict[str, str] = Field({}, description="Erased weights that are there, by name: why not served.")

    @property
    def available_variants(self) -> tuple[str, ...]:
        """Names of the variants that requests may ask for."""
        return tuple(variant.name for variant in self.variants if variant.status is VariantStatus.AVAILABLE)
