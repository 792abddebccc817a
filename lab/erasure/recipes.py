"""Recipes at work: which tensors they train, the command that repeats them, what the card tells."""

import shlex
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter

from contract.recipe import Esd, Recipe, Sdd, TaggedRecipe
from workers.variants.card import is_cross_attention, is_key_or_value

_RECIPE: TypeAdapter[Recipe] = TypeAdapter(TaggedRecipe)


def trained_by(recipe: Esd | Sdd) -> Callable[[str], bool]:
    """Tells of a UNet tensor's name whether the recipe trains it."""
    match recipe:
        case Esd(method="esd-u"):
            return lambda name: not is_cross_attention(name)
        case Esd(method="esd-x-strict") | Sdd(kv_only=True):
            return is_key_or_value
    return is_cross_attention


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
