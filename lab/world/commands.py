"""`seemly world ...`: draw the world, train the demo model, calibrate, measure and describe it."""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

app = typer.Typer(help="The drawn world and the demo model trained on it.", no_args_is_help=True)
Model = Annotated[Path, typer.Argument(help="model folder")]
DEMO = Path("models/demo")


@app.command()
def sprites(font: Annotated[Path, typer.Option(help="NotoColorEmoji.ttf")]) -> None:
    """Render the sprite atlas from the font, once."""
    from lab.world.sprites import ATLAS, render_atlas

    render_atlas(font).save(ATLAS, optimize=True)
    Console().print(f"wrote {ATLAS}")


@app.command()
def draw(folder: Path, count: int = 64, seed: int = 0, size_px: int = 64) -> None:
    """Write a sheet of pictures, the pictures themselves and their captions to FOLDER."""
    from PIL import Image

    from lab.world.captions import caption
    from lab.world.scenes import random_pictures
    from lab.world.sheets import grid, save

    pictures, scenes = random_pictures(seed, count, size_px)
    rng = np.random.default_rng(seed)
    save(grid(pictures, columns=16), folder / "sheet.png")
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:05d}.png")
    lines = [
        json.dumps(
            {
                "file": f"{index:05d}.png",
                "background": scene.background,
                "objects": scene.objects,
                "caption": caption(scene, rng),
            }
        )
        for index, scene in enumerate(scenes)
    ]
    (folder / "captions.jsonl").write_text("\n".join(lines) + "\n")
    Console().print(f"wrote {count} pictures, captions.jsonl and sheet.png to {folder}")


@app.command()
def train(
    budget: Annotated[str, typer.Option(help="cpu or gpu")] = "cpu",
    out: Annotated[Path, typer.Option(help="where the model goes")] = DEMO,
    work: Annotated[Path, typer.Option(help="checkpoints and logs; a stopped run resumes from here")] = Path(
        "data/world"
    ),
    seed: int = 1,
) -> None:
    """Train everything, calibrate, measure and write the card. Stop it at will: the same command resumes."""
    from lab.evaluation.commands import calibrate as calibrate_methods
    from lab.world.recipe import train_all
    from lab.world.training import BUDGETS

    if budget not in BUDGETS:
        raise typer.BadParameter(f"no budget {budget!r}; there are {', '.join(BUDGETS)}")
    train_all(BUDGETS[budget], seed, work, out)
    calibrate_methods(out, work=work / "methods.jsonl")
    measure(out)
    card(out)


@app.command()
def calibrate(model: Model = DEMO) -> None:
    """Set the checker's thresholds from fresh drawings; the figures must then be measured again."""
    from lab.world.assembly import calibrate_model, read_serving
    from lab.world.card import FIGURES

    serving = read_serving(model)
    calibrate_model(model, serving.native_size_px, serving.default_guidance_scale)
    (model / FIGURES).unlink(missing_ok=True)
    Console().print(f"calibrated {model}; now: seemly evaluate calibrate, seemly world measure, seemly world card")


@app.command()
def measure(
    model: Model = DEMO,
    seed: int = 0,
    sheets: Annotated[Path | None, typer.Option(help="folder for sheets of what was generated")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON rather than tables")] = False,
) -> None:
    """Measure the figures the model must show; writes figures.json into it."""
    from contract.concept_text import joined
    from lab.world import quality
    from lab.world.assembly import read_serving
    from lab.world.card import FIGURES
    from lab.world.sheets import comparison, grid, made_safe, save

    figures, outcomes, sets = quality.measure(model, seed)
    report = quality.report(figures, outcomes, joined(read_serving(model).safety_concepts))
    text = json.dumps(report, indent=2)
    (model / FIGURES).write_text(text + "\n")
    if sheets is not None:
        names = [f"ambiguous, {method}" for method in ("plain", "negative prompt", "SLD strong")]
        save(comparison(sets, names, list(range(36))), sheets / "world-methods.png")
        save(comparison(sets, names, made_safe(sets, names[0], names[1:])), sheets / "world-made-safe.png")
        generated = np.concatenate([sets[name].pictures[:48] for name in ("single", "pairs", "ambiguous")])
        save(grid(generated, columns=16), sheets / "world-generated.png")
    if as_json:
        typer.echo(text)
    else:
        Console().print(*quality.tables(figures, outcomes), sep="\n")


@app.command()
def card(model: Model = DEMO) -> None:
    """Write README.md and card.json of a measured model."""
    from lab.world.card import write_card

    write_card(model)
    Console().print(f"wrote the card of {model}")


if __name__ == "__main__":
    app()
