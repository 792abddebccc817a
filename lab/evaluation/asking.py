"""From the words of a command line to what a run is asked for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

import typer

from contract.plan import SafetyPlan
from lab.evaluation.comparison import TABLES, asked_of
from lab.evaluation.manifest import Asked, Manifest, PromptSource
from lab.evaluation.run import PLAIN, VARIANTS

PLANS: Final = (
    "none", "negative", "sld:weak", "sld:medium", "sld:strong", "sld:max", "sega", "unguidance:single",
    "unguidance:multi", "unguidance:filter", "safree",
)  # fmt: skip
DEMO: Final = "models/demo"
SETS: Final = ("ambiguous", "benign")


@dataclass(frozen=True)
class Wish:
    """The options of `seemly evaluate run` that say what is made and measured; None or False: not given."""

    model: str | None = None
    prompts: Sequence[str] | None = None
    plan: Sequence[str] | None = None
    plans: Path | None = None
    preset: str | None = None
    limit: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    native_size: bool = False
    measure: Sequence[str] | None = None
    weights: Sequence[str] | None = None
    concept: Sequence[str] | None = None
    variants: Path | None = None

    def given(self, *but: str) -> list[str]:
        """The options that were given, as they are written, but for some."""
        named = [each.name for each in fields(self) if each.name not in but]
        return [f"--{name.replace('_', '-')}" for name in named if getattr(self, name) not in (None, False)]


def asked_for(wish: Wish, manifest: Path | None) -> tuple[Asked, Manifest | None]:
    """What a run is asked for, and the manifest that it has to repeat, if any.

    Raises:
        typer.BadParameter: an option cannot be understood, or does not go with another.
    """
    if manifest is not None:
        if others := wish.given("model"):
            raise typer.BadParameter(f"says all that a run is; leave out {', '.join(others)}", param_hint="--manifest")
        try:
            again = Manifest.read(manifest)
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{manifest} is no manifest: {error}", param_hint="--manifest") from None
        return again.asked.model_copy(update={"model": wish.model} if wish.model else {}), again
    model, variants = wish.model or DEMO, wish.variants or VARIANTS
    if wish.preset is not None:
        if others := wish.given("model", "preset", "limit", "steps", "guidance_scale", "variants"):
            raise typer.BadParameter(f"names them; leave out {', '.join(others)}", param_hint="--preset")
        asked = asked_of(TABLES[wish.preset], model, variants, wish.limit)
        return asked.model_copy(update={"steps": wish.steps, "guidance_scale": wish.guidance_scale}), None
    sources = dict.fromkeys(wish.prompts or SETS)
    return (
        Asked(
            model=model,
            prompts=tuple(PromptSource(source=source, limit=wish.limit) for source in sources),
            plans=_plans(wish),
            steps=wish.steps,
            guidance_scale=wish.guidance_scale,
            native_size=wish.native_size,
            measures=tuple(dict.fromkeys(wish.measure or ())),
            weights=dict(map(_weights, wish.weights or ())),
            concepts=tuple(dict.fromkeys(wish.concept or ())),
            variants=variants.as_posix(),
        ),
        None,
    )


def plan_named(name: str) -> SafetyPlan:
    """A plan from its short form, methods joined by "+".

    Raises:
        typer.BadParameter: no such plan.
    """
    try:
        return SafetyPlan.from_short_form([part.strip() for part in name.split("+")])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--plan") from None


def _plans(wish: Wish) -> dict[str, SafetyPlan]:
    """Plain generation first, against which the others are measured."""
    names = wish.plan or (() if wish.plans else PLANS)
    plans = {name: plan_named(name) for name in dict.fromkeys((PLAIN, *names))}
    if wish.plans is None:
        return plans
    try:
        content = json.loads(wish.plans.read_text())
        written = {name: SafetyPlan.model_validate_json(json.dumps(plan)) for name, plan in content.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise typer.BadParameter(
            f'{wish.plans} is no object of plans written out, as {{"name": {{"guidance": {{"method": "negative"}}}}}}:'
            f" {error}",
            param_hint="--plans",
        ) from None
    if odd := [name for name in written if not (name.strip() and name.isprintable())]:
        raise typer.BadParameter(f"{odd[0]!r} is no name for a plan: nothing of it can be read", param_hint="--plans")
    if twice := sorted(plans.keys() & written.keys()):
        raise typer.BadParameter(f"names that stand for another plan: {', '.join(twice)}", param_hint="--plans")
    return plans | written


def _weights(written: str) -> tuple[str, str]:
    name, equals, value = written.partition("=")
    if not (name and equals and value):
        raise typer.BadParameter(f"{written!r} is not of the form NAME=FILE", param_hint="--weights")
    return name, value
