"""`seemly variants ...`: what variants there are and whether they can be served."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Erased weights: list, verify.", no_args_is_help=True)
VARIANTS, DEMO = Path("models/variants"), Path("models/demo")
Folder = Annotated[Path, typer.Argument(help="Folder of variants.")]
Model = Annotated[Path, typer.Option(help="Folder of the model they are for.")]


@app.command("list")
def list_variants(folder: Folder = VARIANTS) -> None:
    """Name every variant in a folder, its method, kind, size and concepts."""
    from workers.variants.card import CARD, WEIGHTS, read_card

    table = Table("variant", "method", "kind", "MB", "base", "concepts")
    for file in sorted(folder.glob(f"*/{CARD}")):
        try:
            card = read_card(file.parent)
            size = f"{(file.parent / WEIGHTS).stat().st_size / 1e6:.2f}"
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{file.parent} is no variant: {error}") from None
        base = f"{card.base.name} {card.base.weights_sha256[:12]}"
        table.add_row(card.name, card.method, card.kind.value, size, base, ", ".join(card.concepts))
    if not table.row_count:
        raise typer.BadParameter(f"{folder} holds no variant; make one with: seemly erase")
    Console().print(table)


@app.command()
def verify(
    variant: Annotated[Path, typer.Argument(help="Folder or .safetensors file of a variant.")], model: Model = DEMO
) -> None:
    """Check a variant against a model as serving would. Exit code 1: it would be refused, and why."""
    from diffusers import UNet2DConditionModel

    from workers.models import hash_weights
    from workers.variants.reading import UnusableVariant, load_variant

    if not (model / "unet").is_dir():
        raise typer.BadParameter(f"{model} is no model's folder", param_hint="--model")
    unet = UNet2DConditionModel.from_pretrained(model / "unet", use_safetensors=True, local_files_only=True)
    try:
        found = load_variant(variant, unet.state_dict(), hash_weights(model))
    except UnusableVariant as error:
        Console(stderr=True).print(f"refused: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None
    Console().print(
        f"{found.name}: {found.kind.value}, {len(found.tensors)} tensors, {found.size_bytes / 1e6:.2f} MB, fits {model}"
    )


if __name__ == "__main__":
    app()
