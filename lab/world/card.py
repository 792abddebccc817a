"""The model card: written from what training and measuring left in the model folder, never typed."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import diffusers
import torch
import transformers

from contract.effect import MeasuredEffects
from lab.evaluation.tables import markdown
from lab.world.assembly import CALIBRATION_PICTURES, CALIBRATION_SEED, read_serving
from lab.world.captions import all_words, world_fingerprint
from lab.world.checker import ABSENT_QUANTILE, PRESENT_QUANTILE, WEAK_RECALL
from lab.world.objects import BACKGROUND_NAMES, OBJECTS
from lab.world.quality import percentages
from lab.world.training import Budget, Recipe, history

TRAINING, FIGURES, CARD, README = "training.json", "figures.json", "card.json", "README.md"
CALIBRATION_FILE, EFFECTS = "calibration.json", "effects.json"  # of the safety methods, by `seemly evaluate`
WORLD: Final = "world.txt"  # in a part's training folder: the fingerprint of the world it saw
LICENCE: Final = (
    "Apache-2.0, as the code. The training pictures are drawn from glyphs of Noto Color Emoji (Google, SIL Open Font "
    "License 1.1), kept in `lab/world/sprites.png` with that licence beside it; the weights hold no font."
)
CALIBRATION: Final = (
    f"Each threshold lies midway between the {ABSENT_QUANTILE:.1%} quantile of its concept's cosine on harmless "
    f"pictures and the {PRESENT_QUANTILE:.0%} quantile on pictures that show it, among {CALIBRATION_PICTURES} fresh "
    f"drawings (seed {CALIBRATION_SEED}, used neither for training nor for measuring), each cosine raised by 0.01 "
    "where a special-care context is seen, as the stock checker does. Special-care thresholds lie midway between "
    "pictures outside and inside the context. The weak thresholds in `safety_checker/concepts.json` are the same, "
    "raised together until only "
    f"{WEAK_RECALL:.0%} of the unsafe drawings are found. The judge takes no part in this. "
    "Command: `seemly world calibrate`."
)
HEAD: Final = (
    "# Seemly demo model\n\nA small Stable-Diffusion-shaped model of a drawn world. "
    "This card is written by `seemly world card`; do not edit it.\n"
)


def write_training(folder: Path, budget: Budget, seed: int, work: Path) -> None:
    """Record in the model folder how its parts were trained, from the logs in `work`."""
    recipes = {"clip": budget.clip, "vae": budget.vae, "judge": budget.judge, "unet": budget.unet}
    record = {
        "budget": budget.name,
        "seed": seed,
        "size_px": budget.size_px,
        "pictures": budget.pictures,
        "world": world_fingerprint(),
        "parts": {name: _part(recipe, work / name) for name, recipe in recipes.items()},
        "versions": {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        },
    }
    (folder / TRAINING).write_text(json.dumps(record, indent=2) + "\n")


def _part(recipe: Recipe, folder: Path) -> dict[str, Any]:
    log = history(folder)
    tenth = max(1, len(log) // 10)
    return {
        "recipe": asdict(recipe),
        "world": (folder / WORLD).read_text().strip(),
        "steps": log[-1]["step"],
        "examples": int(log[-1]["step"]) * recipe.batch,
        "minutes": round(log[-1]["elapsed_s"] / 60, 1),
        "loss_first": log[0]["loss"],
        "loss_last_tenth": round(sum(line["loss"] for line in log[-tenth:]) / tenth, 5),
    }


def write_card(folder: Path) -> None:
    """Write `card.json` and `README.md` of the model in `folder` from its records and files."""
    for name, command in ((TRAINING, "train"), (FIGURES, "measure")):
        if not (folder / name).exists():
            raise FileNotFoundError(f"{folder / name} is missing; run `seemly world {command}` first")
    card = {
        "name": "Seemly demo model",
        "licence": LICENCE,
        "calibration": CALIBRATION,
        "serving": asdict(read_serving(folder)),
        "training": json.loads((folder / TRAINING).read_text()),
        "quality": json.loads((folder / FIGURES).read_text()),
        "methods": _optional(folder / CALIBRATION_FILE),
        "effects": _optional(folder / EFFECTS),
        "files": hashes(folder),
    }
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n")
    (folder / README).write_text(_readme(card))


def _optional(file: Path) -> Any:
    return json.loads(file.read_text()) if file.exists() else None


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """SHA-256 and size of every file of the model but the card itself, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in (CARD, README))
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in paths
    }


def _readme(card: dict[str, Any]) -> str:
    training, quality = card["training"], card["quality"]
    sections = {
        "Data": (
            f"{training['pictures']:,} pictures of {training['size_px']} px per part, drawn from seeds (run seed "
            f"{training['seed']}) with captions made anew at every step; `docs/world.md` describes the world. "
            "No picture, caption or weight comes from anywhere else."
        ),
        "Training": f"One command: `seemly world train --budget {training['budget']} --seed {training['seed']}`.\n\n"
        + _table(
            ("part", "steps", "batch", "examples", "minutes", "first loss", "last loss"),
            [
                (
                    name,
                    p["steps"],
                    p["recipe"]["batch"],
                    p["examples"],
                    p["minutes"],
                    p["loss_first"],
                    p["loss_last_tenth"],
                )
                for name, p in training["parts"].items()
            ],
        )
        + _earlier_worlds(training),
        "Quality": "Measured by `seemly world measure`; the judge says what a picture shows.\n\n"
        + _table(
            ("figure", "value", "must be", "met", "pictures"),
            [(f["name"], f["value"], _bounds(f), _met(f), f["pictures"]) for f in quality["figures"]],
        ),
        "Safety methods in the engine": _effects(card["effects"]),
        "Calibration of the safety methods": _methods(card["methods"]),
        "Safety methods by other hands": "50 steps, diffusers' own pipelines, concept text `"
        + quality["safety_text"]
        + "`.\n\n"
        + _table(
            ("prompts, method", "unsafe", "harmless only", "no object", "named objects shown"),
            [(name, *percentages(outcome)) for name, outcome in quality["outcomes"].items()],
        ),
        "Calibration of the checker": card["calibration"],
        "Limits": (
            f"A demonstration and a test bench: it knows {len(OBJECTS)} objects, {len(all_words())} words and "
            f"{len(BACKGROUND_NAMES)} backgrounds, and says nothing about real checkpoints. "
            "Its checker and its judge are far better on this world than any real ones are on theirs."
        ),
        "Licence": card["licence"],
        "Files": _table(
            ("file", "bytes", "SHA-256"), [(path, f["bytes"], f"`{f['sha256']}`") for path, f in card["files"].items()]
        ),
    }
    return HEAD + "".join(f"\n## {title}\n\n{text}\n" for title, text in sections.items())


def _effects(effects: dict[str, Any] | None) -> str:
    if effects is None:
        return "Not measured yet: `seemly evaluate run`, `seemly evaluate summary --write`."
    measured = MeasuredEffects.model_validate(effects)
    settings = measured.settings
    told = "\n\n".join(f"Prompts: {name}.\n\n{markdown(plans)}" for name, plans in measured.effects.items())
    return (
        f"{settings.steps} steps, guidance {settings.guidance_scale:g}, the same prompts and seeds for every "
        f"plan, seen by the judge; `docs/safety.md` explains the columns. Command: `seemly evaluate run`.\n\n{told}"
    )


def _methods(calibration: dict[str, Any] | None) -> str:
    if calibration is None:
        return "Not calibrated: concept texts and unguidance's numbers are the published ones or a first guess."
    chosen = calibration["chosen"]
    sets = ", ".join(f"{count} of {name}" for name, count in calibration["prompts"].items())
    rows = [
        ("concept texts of negative, SLD, SEGA and SAFREE", ", ".join(chosen["safety_concepts"])),
        ("unguidance, single", chosen["single"]),
        ("unguidance, multi", ", ".join(chosen["multi"])),
        ("unguidance acts from this share of the steps on", chosen["settled_after"]),
        ("η", chosen["threshold"]),
        ("γ", chosen["strength"]),
        ("K", chosen["top_k"]),
        ("harmless calibration pictures ever corrected", f"{calibration['harmless_ever_corrected']:.1%}"),
    ]
    return (
        f"Chosen by `seemly evaluate calibrate` from the model's own checker and CLIP, on prompts and seeds that "
        f"measuring does not use ({sets}); the judge takes no part. Figures behind it: `{CALIBRATION_FILE}`.\n\n"
        + _table(("what", "chosen"), rows)
    )


def _earlier_worlds(training: dict[str, Any]) -> str:
    """Which parts saw an earlier mix of the world than the code now draws."""
    now, parts = training["world"], training["parts"]
    earlier = [f"{name} (`{part['world']}`)" for name, part in parts.items() if part["world"] != now]
    if not earlier:
        return ""
    return (
        f"\n\nThe code draws the world `{now}`. Trained on an earlier mix of the same objects and backgrounds: "
        f"{', '.join(earlier)}. Training anew with the command gives other weights for these."
    )


def _bounds(figure: dict[str, Any]) -> str:
    low, high = figure["at_least"], figure["at_most"]
    return ", ".join([f"≥ {low}"] * (low is not None) + [f"≤ {high}"] * (high is not None))


def _met(figure: dict[str, Any]) -> str:
    return ("yes" if figure["is_met"] else "**no**") if _bounds(figure) else ""


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)
