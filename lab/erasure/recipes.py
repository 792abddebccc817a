"""What a recipe is made with: every method's hyper-parameters, their published values, and which tensors it trains."""

import shlex
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, TypeAdapter, model_validator

from contract.plan import ConceptText
from contract.strict import Strict, Text
from workers.variants.card import is_cross_attention, is_key_or_value

Concepts = Annotated[tuple[ConceptText, ...], Field(min_length=1, max_length=64)]
Precision = Literal["float32", "bfloat16", "float16"]


class Trained(Strict):
    """What ESD and SDD share."""

    concepts: Concepts
    iterations: int = Field(ge=1, le=1_000_000)
    learning_rate: float = Field(1e-5, gt=0, le=1)
    batch: int = Field(1, ge=1, le=256, description="Noises per iteration, all denoised up to the same step.")
    sampling_steps: int = Field(50, ge=1, le=1000, description="DDIM steps of a whole trajectory.")
    sampling_guidance: float = Field(3.0, ge=0, le=30)
    precision: Precision = Field("float32", description="Of the forward pass; weights and optimizer are in float32.")
    gradient_checkpointing: bool = Field(False, description="Less memory for more time.")
    seed: int = Field(0, ge=0, lt=2**31)


class Esd(Trained):
    """Erased Stable Diffusion (Gandikota et al. 2023)."""

    method: Literal["esd-x", "esd-x-strict", "esd-u"]
    iterations: int = Field(1000, ge=1, le=1_000_000)
    erase_scale: float = Field(1.0, gt=0, le=20, description="η, how far beyond the empty prompt the target lies.")

    @property
    def is_trained(self) -> Callable[[str], bool]:
        """Tells of a UNet tensor's name whether it is trained."""
        if self.method == "esd-x":
            return is_cross_attention
        return is_key_or_value if self.method == "esd-x-strict" else lambda name: not is_cross_attention(name)


class Sdd(Trained):
    """Safe self-distillation diffusion (Kim et al. 2023)."""

    method: Literal["sdd"] = "sdd"
    iterations: int = Field(1500, ge=1, le=1_000_000, description="The authors take 2000 for many concepts.")
    warmup_iterations: int = Field(500, ge=0, le=1_000_000)
    weight_decay: float = Field(1e-2, ge=0, le=1)
    average_decay: float = Field(0.999, ge=0, lt=1, description="Of the teacher, the mean that is saved.")
    clip_norm: float = Field(1.0, gt=0)
    kv_only: bool = Field(False, description="Train attn2.to_k and attn2.to_v only: such variants share UNet calls.")

    @property
    def is_trained(self) -> Callable[[str], bool]:
        """Tells of a UNet tensor's name whether it is trained."""
        return is_key_or_value if self.kv_only else is_cross_attention


class Uce(Strict):
    """Unified concept editing (Gandikota et al. 2024): closed form, nothing is trained."""

    method: Literal["uce"] = "uce"
    concepts: Concepts
    preserved: Annotated[tuple[ConceptText, ...], Field(max_length=1024)] = ()
    guide: Text = Field("", max_length=300, description="What the concepts become; empty: the empty prompt.")
    regularisation: float = Field(0.5, gt=0, le=1e6, description="λ, how much the weights keep to the original's.")

    @model_validator(mode="after")
    def _nothing_is_both(self) -> Self:
        if both := sorted(set(self.concepts) & set(self.preserved)):
            raise ValueError(f"{both[0]!r} is to be erased and preserved; name it once")
        return self


Recipe = Esd | Sdd | Uce
_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="method")])


def recipe_from(method: str, options: dict[str, Any]) -> Recipe:
    """A recipe from the options that were given; what the method does not know is refused.

    Raises:
        pydantic.ValidationError: which option, and why.
    """
    return _RECIPE.validate_python({"method": method, **options})


def command_for(recipe: Recipe, model: str, out: str) -> str:
    """The command that makes this variant."""
    words = ["seemly", "erase", "--method", recipe.method, "--concepts", ", ".join(recipe.concepts)]
    given = recipe.model_dump(exclude={"method", "concepts"}, exclude_defaults=True)
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        else:
            words += [option, ", ".join(value) if isinstance(value, tuple) else str(value)]
    return shlex.join([*words, "--model", model, "--out", out])


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """Every one of them, those at their published values too."""
    return recipe.model_dump(mode="json", exclude={"method", "concepts", "preserved"})
