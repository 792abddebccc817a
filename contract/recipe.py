"""What an erasure is made with: every method's hyper-parameters, their bounds and published values."""

from typing import Annotated, Literal, Self

from pydantic import Field, StrictBool, model_validator

from contract.concept_text import ConceptText, ConceptTexts, read_as
from contract.strict import Number, Strict, Text

Precision = Literal["float32", "bfloat16", "float16"]
Iterations = Annotated[int, Field(ge=1, le=1_000_000), Number]


class Trained(Strict):
    """What ESD and SDD share."""

    concepts: ConceptTexts
    iterations: Iterations
    learning_rate: Annotated[float, Field(gt=0, le=1), Number] = 1e-5
    batch: Annotated[int, Field(ge=1, le=256), Number] = Field(
        1, description="Noises per iteration, all denoised up to the same step."
    )
    sampling_steps: Annotated[int, Field(ge=1, le=1000), Number] = Field(
        50, description="DDIM steps of a whole trajectory."
    )
    sampling_guidance: Annotated[float, Field(ge=0, le=30), Number] = 3.0
    precision: Precision = Field("float32", description="Of the forward pass; weights and optimizer are in float32.")
    gradient_checkpointing: StrictBool = Field(False, description="Less memory for more time.")
    seed: Annotated[int, Field(ge=0, lt=2**31), Number] = 0


class Esd(Trained):
    """Erased Stable Diffusion (Gandikota et al. 2023)."""

    method: Literal["esd-x", "esd-x-strict", "esd-u"]
    iterations: Iterations = 1000
    erase_scale: Annotated[float, Field(gt=0, le=20), Number] = Field(
        1.0, description="η, how far beyond the empty prompt the target lies."
    )


class Sdd(Trained):
    """Safe self-distillation diffusion (Kim et al. 2023)."""

    method: Literal["sdd"] = "sdd"
    iterations: Iterations = Field(1500, description="The authors take 2000 for many concepts.")
    warmup_iterations: Annotated[int, Field(ge=0, le=1_000_000), Number] = 500
    weight_decay: Annotated[float, Field(ge=0, le=1), Number] = 1e-2
    average_decay: Annotated[float, Field(ge=0, lt=1), Number] = Field(
        0.999, description="Of the teacher, the mean that is saved."
    )
    clip_norm: Annotated[float, Field(gt=0), Number] = 1.0
    kv_only: StrictBool = Field(
        False, description="Train attn2.to_k and attn2.to_v only: such variants share UNet calls."
    )


class Uce(Strict):
    """Unified concept editing (Gandikota et al. 2024): closed form, nothing is trained."""

    method: Literal["uce"] = "uce"
    concepts: ConceptTexts
    preserved: Annotated[tuple[ConceptText, ...], Field(max_length=1024)] = ()
    guide: Text = Field("", max_length=300, description="What the concepts become; empty: the empty prompt.")
    regularisation: Annotated[float, Field(gt=0, le=1e6), Number] = Field(
        0.5, description="λ, how much the weights keep to the original's."
    )

    @model_validator(mode="after")
    def _nothing_is_both(self) -> Self:
        kept = set(map(read_as, self.preserved))
        for index, concept in enumerate(self.concepts):
            if read_as(concept) in kept:
                raise ValueError(f"concept {index} is to be erased and preserved; name it once")
        return self


Recipe = Esd | Sdd | Uce
TaggedRecipe = Annotated[Recipe, Field(discriminator="method")]
