"""`seemly variants ...`: what variants there are, whether they can be served, and what they do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from lab.erasure.standing_commands import check_name, describe, gate, promote, retire, say

if TYPE_CHECKING:
    from workers.variants.card import VariantCard

app = typer.Typer(help="Erased weights: list, describe, verify, measure, promote, retire.", no_args_is_help=True)
for command in (describe, gate, promote, retire):
    app.command()(command)
VARIANTS, DEMO = Path("models/variants"), Path("models/demo")
Folder = Annotated[Path, typer.Argument(help="Folder of variants.")]
Model = Annotated[Path, typer.Option(help="Folder of the model they are for.")]


@app.command("list")
def list_variants(folder: Folder = VARIANTS) -> None:
    """Name every variant in a folder, its method, kind, size and concepts. Exit code 1: some cannot be read."""
    from workers.variants.card import CARD, WEIGHTS, read_card

    table, damaged = Table("variant", "status", "method", "kind", "MB", "base", "concepts"), list[str]()
    for file in sorted(folder.glob(f"*/{CARD}")):
        try:
            card = read_card(file.parent)
            size = f"{(file.parent / WEIGHTS).stat().st_size / 1e6:.2f}"
        except (OSError, ValueError) as error:
            damaged.append(f"{file.parent} is no variant: {' '.join(str(error).split())}")
            continue
        told = (card.name, card.status.value, card.method, card.kind.value, size)
        base = f"{card.base.name} {card.base.weights_sha256[:12]}"
        table.add_row(*told, Text(base), Text(", ".join(card.concepts)))
    if not (table.row_count or damaged):
        raise typer.BadParameter(f"{folder} holds no variant; make one with: seemly erase")
    Console().print(table)
    for line in damaged:
        Console(stderr=True).print(line, markup=False, highlight=False, soft_wrap=True)
    if damaged:
        raise typer.Exit(1)


@app.command()
def verify(
    variant: Annotated[Path, typer.Argument(help="Folder or .safetensors file of a variant.")], model: Model = DEMO
) -> None:
    """Check a variant against a model as serving would. Exit code 1: it would be refused, and why."""
    from workers.checkpoint import UnusableModel
    from workers.variants.importing import base_of
    from workers.variants.reading import UnusableVariant, load_variant

    _check_model(model)
    try:
        state, base = base_of(str(model))
        found = load_variant(variant, state, base.weights_sha256)
    except UnusableModel as error:
        raise typer.BadParameter(str(error), param_hint="--model") from None
    except UnusableVariant as error:
        Console(stderr=True).print(f"refused: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    Console().print(
        f"{found.name}: {found.kind.value}, {len(found.tensors)} tensors, {found.size_bytes / 1e6:.2f} MB, fits {model}"
    )


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A diffusers UNet folder, or a .safetensors file of part of one.")],
    name: Annotated[str | None, typer.Option(help="What requests call it; after the file when left out.")] = None,
    model: Model = DEMO,
    folder: Annotated[Path, typer.Option(help="Folder of variants to put it in.")] = VARIANTS,
    replace: Annotated[bool, typer.Option("--replace", help="The variant of that name, where there is one.")] = False,
    candidate: Annotated[
        bool, typer.Option("--candidate", help="Not to be served before: seemly variants promote.")
    ] = False,
) -> None:
    """Make a variant of a UNet that others have erased from. Exit code 1: it cannot be served, and why."""
    from workers.checkpoint import UnusableModel
    from workers.variants.importing import import_variant
    from workers.variants.reading import UnusableVariant

    _check_model(model)
    if name is not None:
        check_name(name, "--name")
    try:
        card = import_variant(source, str(model), folder, name, replace=replace, is_candidate=candidate)
    except UnusableModel as error:
        raise typer.BadParameter(str(error), param_hint="--model") from None
    except (UnusableVariant, OSError) as error:
        Console(stderr=True).print(f"refused: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    say(f"{folder / card.name}: {card.kind.value}, {card.status.value}, asked for as erased:{card.name}")


def _check_model(model: Path) -> None:
    if not (model / "unet").is_dir():
        raise typer.BadParameter(f"{model} is no model's folder", param_hint="--model")


@app.command()
def measure(
    variants: Annotated[list[Path], typer.Argument(help="Folders of variants with cards, all in one folder.")],
    model: Model = DEMO,
    prompts: Annotated[
        list[str] | None, typer.Option(help="ambiguous, explicit or benign; may be repeated. Default: all three.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Prompts of each set.")] = 100,
    work: Annotated[Path, typer.Option(help="Every picture's scores; a run that ended early goes on.")] = Path(
        "data/effects"
    ),
) -> None:
    """Measure the world's prompts before and after, and write the figures into the variants' cards."""
    from lab.erasure.effects import SETS
    from lab.erasure.effects import measure as measure_effects
    from lab.evaluation.run import OtherRun
    from seemly.prompts import UnusablePrompts
    from workers.checkpoint import UnusableModel

    if len({variant.parent for variant in variants}) > 1:
        raise typer.BadParameter("the variants lie in several folders; measure those of one folder at a time")
    sets = prompts or list(SETS)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("pictures", total=(1 + len(variants)) * limit * len(sets))
        try:
            cards = measure_effects(str(model), variants, sets, limit, work, lambda done: bar.advance(task, done))
        except UnusablePrompts as error:
            raise typer.BadParameter(str(error), param_hint="--prompts") from None
        except OtherRun as error:
            raise typer.BadParameter(str(error), param_hint="--work") from None
        except UnusableModel as error:
            raise typer.BadParameter(str(error), param_hint="--model") from None
        except (ValueError, OSError) as error:  # no card, no readable one, or a variant that cannot be served
            raise typer.BadParameter(str(error)) from None
    for card in cards:
        Console().print(effects_table(card))


@app.command()
def document(
    folder: Folder = VARIANTS,
    file: Annotated[Path, typer.Option(help="A document with <!-- table: variants --> and <!-- end -->.")] = Path(
        "docs/erasure.md"
    ),
) -> None:
    """Write the table of measured variants into a document anew."""
    from lab.erasure.tables import effects_of
    from lab.evaluation.tables import with_table
    from workers.variants.card import CARD, read_card

    try:
        cards = [read_card(card.parent) for card in sorted(folder.glob(f"*/{CARD}"))]
        before = file.read_text()
        after = with_table(before, "variants", effects_of(cards))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    file.write_text(after)
    Console().print(f"{file} {'was up to date' if after == before else 'rewritten'}")


def effects_table(card: "VariantCard") -> Table:
    """The figures of a card."""
    table = Table("prompts", "measure", "pictures", "before", "after", title=card.name)
    for effect in card.effects:
        table.add_row(
            effect.prompts, effect.measure, str(effect.pictures), f"{effect.before:.3f}", f"{effect.after:.3f}"
        )
    return table


if __name__ == "__main__":
    app()
