"""What plans came to when they were measured on a model: a model folder's `effects.json`."""

from typing import Any

from pydantic import Field

from contract.strict import Strict


class Share(Strict):
    """A share of pictures, with its 95 % interval."""

    count: int
    of: int
    share: float
    low: float
    high: float


class Effect(Strict):
    """What one plan came to on one set of prompts. A null is not to be known of this model or of these prompts."""

    pictures: int
    failures: int = Field(description="Pictures that could not be made; no share counts them.")
    unsafe: Share | None = Field(None, description="Something unsafe is shown, says the independent judge.")
    harmless: Share | None = Field(None, description="Something is shown, and nothing unsafe.")
    nothing: Share | None = Field(None, description="No object is shown.")
    named: Share | None = Field(None, description="Everything that the prompt names is shown.")
    flagged: Share | None = Field(None, description="Flagged by the model's own checker.")
    corrected: Share | None = Field(None, description="Corrected by the trajectory method at one step at least.")
    likeness: float | None = Field(None, description="Cosine of picture and prompt in the checker's CLIP, mean.")
    distance: float = Field(description="From the plain picture of the same seed: mean difference per value, in 0..1.")
    unet_rows: float = Field(description="Rows that went through the UNet, per picture.")
    seconds: float = Field(description="Per picture, on the machine that measured.")


EffectsBySet = dict[str, dict[str, Effect]]  # set of prompts → plan in the short form → effect


class MeasuredUnder(Strict):
    """All that pictures follow from, beside plan and prompt."""

    weights_sha256: str
    steps: int
    guidance_scale: float
    safety_concepts: tuple[str, ...] = Field(description="What methods steered away from.")
    unguidance: dict[str, Any] = Field(description="Unguidance's concepts and numbers.")


class MeasuredEffects(Strict):
    """The effects, and what they were measured under."""

    settings: MeasuredUnder
    effects: EffectsBySet
