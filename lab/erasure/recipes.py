"""Recipes at work: which tensors they train, the command that repeats them, what the card tells."""

import csv
import shlex
from collections.abc import Callable, Sequence
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


def with_commas(texts: Sequence[str]) -> str:
    """Texts as `texts_from` reads them: with commas between, and in double quotes where they have some themselves."""
    quoted = (f'"{text.replace(chr(34), chr(34) * 2)}"' if set(text) & set(',"\r\n') else text for text in texts)
    return ", ".join(quoted)


def texts_from(commas: str) -> tuple[str, ...]:
    """'knife, "a knife, on a table"' → both; one of them may be empty.

    Raises:
        ValueError: a quote is not closed, or stands before something else than a comma.
    """
    try:
        rows = list(csv.reader([commas], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise ValueError(f"{error}; texts stand in double quotes as a whole, or without any") from None
    return tuple(text.strip() for row in rows for text in row)


def command_for(recipe: Recipe, model: str, out: str, store: str = "float16") -> str:
    """The command that makes this variant."""
    words = ["seemly", "erase", "--method", recipe.method, "--concepts", with_commas(recipe.concepts)]
    given = recipe.model_dump(exclude={"method", "concepts"}, exclude_defaults=True)
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        if value is True:
            words.append(option)
        else:
            words += [option, with_commas(value) if isinstance(value, tuple) else str(value)]
    words += [] if store == "float16" else ["--store", store]
    return shlex.join([*words, "--model", model, "--out", out])


def hyperparameters(recipe: Recipe) -> dict[str, Any]:
    """Every one of them, those at their published values too."""
    return recipe.model_dump(mode="json", exclude={"method", "concepts", "preserved"})
