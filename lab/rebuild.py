"""`seemly rebuild`: the demo model and all that follows from it, in order. It resumes where it was stopped."""

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console

app = typer.Typer(help="Rebuild the demo model and everything measured on it.", add_completion=False)
MODEL, VARIANTS = Path("models/demo"), Path("models/variants")
MEASURED: Final = 100  # prompts of each set for a variant's card


@app.command()
def rebuild(
    budget: Annotated[str, typer.Option(help="cpu or gpu")] = "cpu",
    work: Annotated[Path, typer.Option(help="Checkpoints and measured pictures; a run that ended goes on.")] = Path(
        "data/rebuild"
    ),
    seed: int = 1,
) -> None:
    """Train the model, calibrate, measure, erase, and write cards and tables; hours on a CPU.

    Each stage is a command of its own: `world train`, `evaluate run|summary|document|comparison`, `erase`, `variants
    measure|document`, `world card`.
    """
    from lab.erasure import variant_commands
    from lab.erasure.shipped import SHIPPED, make_missing
    from lab.evaluation import commands as evaluation
    from lab.evaluation import report_commands
    from lab.world import commands as world
    from lab.world.card import EFFECTS
    from workers.checkpoint import hash_weights

    console = Console(stderr=True)
    world.train(budget, MODEL, work / "world", seed)
    measured = work / hash_weights(MODEL)[:12]
    results = measured / "evaluation.jsonl"
    evaluation.run(str(MODEL), out=results)
    evaluation.summary([results], write=MODEL / EFFECTS)
    make_missing(MODEL, VARIANTS, work / "erasure", console)
    variant_commands.measure([VARIANTS / name for name in SHIPPED], MODEL, limit=MEASURED, work=measured)
    world.card(MODEL)
    evaluation.document(MODEL)
    variant_commands.document(VARIANTS)
    weapons, everything = measured / "weapons.jsonl", measured / "all.jsonl"
    evaluation.run(str(MODEL), preset="weapons", out=weapons)
    evaluation.run(str(MODEL), preset="all", out=everything)
    report_commands.comparison(weapons, everything)
