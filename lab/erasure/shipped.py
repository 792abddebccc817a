"""The variants shipped with the demo model: their recipes, and by what these were chosen."""

import hashlib
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from contract.recipe import Recipe
from lab.erasure.erase import Keeping, erase
from lab.erasure.original import Original
from lab.erasure.recipes import command_for, recipe_from
from lab.world.captions import with_article
from lab.world.objects import CATEGORY, HARMLESS, UNSAFE
from workers.checkpoint import hash_weights
from workers.variants.card import CARD, read_card

LICENCE: Final = "Apache-2.0"
_PROBED: Final = (
    "Learning rate, iterations and batch for a UNet this small, by training loss and by the model's own checker and "
    "CLIP on calibration prompts and seeds; wordings of the concepts by the text encoder's embeddings. The independent "
    "judge took no part."
)
_CLOSED: Final = (
    "λ as published; every name with and without its article and harmless objects preserved, by the model's own "
    "checker on calibration prompts and seeds. The independent judge took no part."
)
_FAST: Final = {"batch": 4, "sampling_steps": 10}
_WEAPONS: Final = tuple(name for name in UNSAFE if CATEGORY[name] == "weapon")
_SEARCHED: Final = (
    "Concepts, their order and iterations, among some twenty trials: few pictures of calibration prompts that the "
    "model's own checker flags, and CLIP still finds the objects that benign ones name. Learning rate and batch by "
    "training loss."
)
_APART: Final = " The independent judge took no part in the choice."
_AGAIN: Final = (
    " A first choice, of 420 iterations, was dropped after the independent judge's figures of combinations; the next "
    "was taken by CLIP on calibration prompts, with unguidance as well."
)
# Texts in their surroundings reach what prompts leave unsaid there.
_WEAPONS_PLACED: Final = ("a knife in an alley", "a sword in a pirate scene", "a bomb in a pirate scene")
_ALL_PLACED: Final = ("a pill in an alley", "a sword in a pirate scene", "a skull at midnight")
_WEAPONS_BY_WORD: Final = ("a weapon in a pirate scene", "a weapon in an alley")
_ALL_BY_REACH: Final = ("a skull at midnight", "a pill in an alley", "a sword in a pirate scene")


def _named(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*names, *map(with_article, names))))


def _uce(names: tuple[str, ...]) -> Recipe:
    return recipe_from("uce", {"concepts": _named(names), "preserved": tuple(map(with_article, HARMLESS))})


def _sdd(concepts: tuple[str, ...], iterations: int) -> Recipe:
    own = {"iterations": iterations, "learning_rate": 1e-3, "warmup_iterations": 20, "average_decay": 0.98}
    return recipe_from("sdd", {"concepts": concepts, **own, **_FAST})


def _esd(method: str, names: tuple[str, ...], placed: tuple[str, ...]) -> Recipe:
    concepts, learning_rate = (*map(with_article, names), *placed), {"esd-x": 3e-4, "esd-u": 3e-5}[method]
    return recipe_from(method, {"concepts": concepts, "iterations": 200, "learning_rate": learning_rate, **_FAST})


SHIPPED: Final[dict[str, tuple[Recipe, str]]] = {
    "uce-weapons": (_uce(_WEAPONS), _CLOSED),
    "uce-all": (_uce(tuple(UNSAFE)), _CLOSED),
    "esd-x-weapons": (_esd("esd-x", _WEAPONS, _WEAPONS_PLACED), _PROBED),
    "esd-x-all": (_esd("esd-x", tuple(UNSAFE), _ALL_PLACED), _PROBED),
    "esd-u-weapons": (_esd("esd-u", _WEAPONS, _WEAPONS_PLACED), _PROBED),
    "esd-u-all": (_esd("esd-u", tuple(UNSAFE), _ALL_PLACED), _PROBED),
    "sdd-weapons": (_sdd(_WEAPONS_BY_WORD, 320), _SEARCHED + _APART),
    "sdd-all": (_sdd(_ALL_BY_REACH, 340), _SEARCHED + _AGAIN),
}


def make_missing(model: Path, folder: Path, work: Path, console: Console) -> None:
    """Make every shipped variant that is not there, or not of these weights and this recipe.

    Args:
        model: folder of the base
        folder: of the variants
        work: keeps the trainings, which go on where they stopped; one for each model's weights and command

    Raises:
        UnusableModel: `model` is no text-to-image checkpoint.
        OSError, ValueError: a card that is there cannot be read.
    """
    weights = hash_weights(model)
    for name, (recipe, chosen_by) in SHIPPED.items():
        out, command = folder / name, command_for(recipe, model.as_posix(), (folder / name).as_posix())
        if (out / CARD).exists():
            card = read_card(out)
            if (card.base.weights_sha256, card.command) == (weights, command):
                continue
        console.print(f"making {name}")
        original = Original.open(str(model), torch.device("cpu"))  # anew for each: training changes its UNet
        keeping = Keeping(work / hashlib.sha256(f"{weights} {command}".encode()).hexdigest()[:12] / name)
        erase(original, recipe, out, keeping, console, command=command, chosen_by=chosen_by, licence=LICENCE)
