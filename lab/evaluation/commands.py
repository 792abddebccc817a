"""`seemly evaluate ...`: what every safety method does to the same prompts and seeds."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from contract.effect import MeasuredEffects, MeasuredUnder
from lab.evaluation.report_commands import comparison, report

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lab.evaluation.run import Measured

app = typer.Typer(help="Measure safety methods on a model.", no_args_is_help=True)
DEMO = Path("models/demo")
Steps = Annotated[int | None, typer.Option(min=1, max=150, help="Default: the model's own.")]
GuidanceScale = Annotated[float | None, typer.Option(min=0, max=30, help="Default: the model's own.")]
Preset = Literal["weapons", "all"]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON rather than tables.")]


@app.command()
def run(
    model: Annotated[str | None, typer.Option(help=f"Folder or hub id of the model. Default: {DEMO}.")] = None,
    prompts: Annotated[
        list[str] | None,
        typer.Option(
            help="ambiguous, benign, explicit, explicit-weapons; a text file of a prompt a line; a CSV file in I2P's"
            ' columns; or a text with <country> in it, as "<country> body". May be repeated. Default: the first two.'
        ),
    ] = None,
    plan: Annotated[
        list[str] | None,
        typer.Option(
            help='A plan, as in "none", "sld:max" or "safree+sld:max"; may be repeated. Default: every method.'
        ),
    ] = None,
    plans: Annotated[Path | None, typer.Option(help="JSON file of plans written out, by name.")] = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Prompts, plans and measures of one table of `seemly evaluate comparison`.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Prompts of each set; a set of the world has 200.")] = None,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    native_size: Annotated[
        bool, typer.Option("--native-size", help="Make all pictures in the model's own size, whatever a file says.")
    ] = False,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            help="nudenet, q16, clip-score, aesthetic, lpips, fid, judge-features; may be repeated. The model's checker"
            " and its judge, where it has one, always look."
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FILE for what a measure needs: q16, aesthetic, lpips, fid, fid-reference, nudenet; for clip a"
            " folder or hub id. May be repeated."
        ),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option(help='A concept that CLIP looks for, as "knife=a photo of a knife@0.26". May be repeated.'),
    ] = None,
    variants: Annotated[Path | None, typer.Option(help="Folder of erased weights. Default: models/variants.")] = None,
    keep_pictures: Annotated[
        bool, typer.Option("--keep-pictures", help="Keep every picture beside the results, for the report.")
    ] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(
            help="Repeat the run of this manifest to the digit; it says all that a run is but --model and --out."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="File of results; a run that ended early goes on from it.")] = Path(
        "data/evaluation.jsonl"
    ),
    as_json: AsJson = False,
) -> None:
    """Make pictures under every plan, judge them, and keep one line for each. Stop it at will: it resumes."""
    from lab.evaluation.asking import Wish, asked_for
    from lab.evaluation.measures.looking import MeasureFailed
    from lab.evaluation.measures.measure import UnusableMeasure
    from lab.evaluation.prepare import prepare
    from lab.evaluation.run import OtherRun
    from seemly.prompts import UnusablePrompts
    from workers.checkpoint import UnusableModel
    from workers.variants.reading import UnusableVariant

    wish = Wish(
        model,
        prompts,
        plan,
        plans,
        preset,
        limit,
        steps,
        guidance_scale,
        native_size,
        measure,
        weights,
        concept,
        variants,
    )
    try:
        asked, again = asked_for(wish, manifest)
        prepared = prepare(asked, out, keep_pictures=keep_pictures, again=again)
    except UnusableVariant as error:
        raise typer.BadParameter(str(error), param_hint="--plan") from None
    except (UnusablePrompts, OtherRun, UnusableModel, UnusableMeasure, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    console = Console(stderr=True)
    if prepared.bench.judge is None:
        console.print(f"{asked.model} has no judge: which objects a picture shows will not be told")
    if again is not None and again.under != prepared.manifest.under:
        console.print("this machine or its libraries are not those of the manifest's run: last digits may differ")
    with _bar(console) as bar:
        task = bar.add_task("pictures", total=prepared.pictures)
        try:
            for done in prepared.run():
                bar.advance(task, done)
        except (MeasureFailed, UnusableVariant, OtherRun, OSError) as error:
            console.print(f"stopped, and goes on with the same command once this is mended: {error}", markup=False)
            raise typer.Exit(1) from None
    if prepared.observer.measures:
        console.print(f"what the measures say: seemly evaluate report {out}")
    _show(list(prepared.results.lines.values()), as_json)


@app.command()
def summary(
    results: Annotated[list[Path], typer.Argument(help="Files of results, of one model and one setting.")],
    write: Annotated[Path | None, typer.Option(help="Also write it to this file, as effects.json of a model.")] = None,
    as_json: AsJson = False,
) -> None:
    """Shares with their intervals, from files of results."""
    from lab.evaluation.report import Report
    from lab.evaluation.summary import summarise

    try:
        told = Report.of(results)
        if write is not None:
            if lacking := [name for name in MeasuredUnder.model_fields if name not in told.settings]:
                raise ValueError(f"these results do not say {', '.join(lacking)}; those of `seemly evaluate run` do")
            under = {name: told.settings[name] for name in MeasuredUnder.model_fields}
            measured = MeasuredEffects.model_validate({"settings": under, "effects": summarise(told.pictures)})
            write.write_text(measured.model_dump_json(indent=1, exclude_none=True) + "\n")
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    _show(told.pictures, as_json)


@app.command()
def document(
    model: Annotated[Path, typer.Option(help="Folder with effects*.json, as `summary --write` wrote them.")] = DEMO,
    file: Annotated[
        Path, typer.Option(help="A document with <!-- table: FILE SET --> and <!-- end -->, FILE without its ending.")
    ] = Path("docs/safety.md"),
) -> None:
    """Write the tables of a document anew."""
    from lab.evaluation.tables import written_into

    try:
        before = after = file.read_text()
        for effects in sorted(model.glob("effects*.json")):
            measured = MeasuredEffects.model_validate_json(effects.read_bytes())
            after = written_into(after, effects.stem, measured.effects)
        file.write_text(after)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    Console().print(f"{file} {'was up to date' if after == before else 'rewritten'}")


@app.command()
def calibrate(
    model: Annotated[Path, typer.Argument(help="Model folder.")] = DEMO,
    risky: Annotated[str, typer.Option(help="A set, or a file of prompts that often give something unsafe.")] = (
        "ambiguous-calibration"
    ),
    harmless: Annotated[str, typer.Option(help="A set, or a file of harmless prompts.")] = "benign-calibration",
    wordings: Annotated[
        Path | None, typer.Option(help='JSON with candidates: "guidance", "single", "multi". Default: the world\'s.')
    ] = None,
    steps: Steps = None,
    guidance_scale: GuidanceScale = None,
    pictures: Annotated[int, typer.Option(min=8, help="Risky prompts; of harmless ones four times as many.")] = 36,
    work: Annotated[Path, typer.Option(help="File of results; a run that ended early goes on from it.")] = Path(
        "data/calibration.jsonl"
    ),
    as_json: AsJson = False,
) -> None:
    """Choose concept texts, η, γ and K for a model with its own checker and CLIP; writes them into its seemly.json."""
    from lab.evaluation.calibration import Calibrating, NothingToCalibrateOn
    from lab.evaluation.prompts import load
    from lab.evaluation.run import Bench, OtherRun, Results
    from lab.evaluation.wordings import WORLD, Wordings
    from workers.checkpoint import UnusableModel

    if not model.is_dir():
        raise typer.BadParameter(f"{model} is no folder: the outcome is written into the model's own")
    try:
        candidates = WORLD if wordings is None else Wordings.from_json(wordings)
        cases = load(risky, pictures), load(harmless, 4 * pictures)
        bench = Bench.load(str(model), steps, guidance_scale, with_judge=False)
        calibrating = Calibrating(bench, *cases, candidates, Results(work, bench.bare_settings))
    except (OtherRun, UnusableModel, ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    console = Console(stderr=True)
    with _bar(console) as bar:
        task = bar.add_task("pictures", total=calibrating.pictures)
        try:
            for done in calibrating.stages():
                bar.advance(task, done)
        except NothingToCalibrateOn as error:
            raise typer.BadParameter(str(error), param_hint="--risky") from None
        except (OtherRun, OSError) as error:
            raise typer.BadParameter(str(error), param_hint="--work") from None
    if calibrating.chosen is None:
        raise typer.Exit(1)
    calibrating.chosen.write(model)
    if as_json:
        typer.echo(json.dumps(calibrating.chosen.evidence, indent=2))
        return
    console.print(calibrating.chosen.evidence["chosen"])
    console.print(
        f"wrote {model / 'seemly.json'} and calibration.json; the card and the measured effects are now stale"
    )


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )


def _show(pictures: "Sequence[Measured]", as_json: bool) -> None:
    from lab.evaluation.summary import summarise
    from lab.evaluation.tables import terminal

    effects = summarise(pictures)
    if as_json:
        told = {
            name: {plan: effect.model_dump(exclude_none=True) for plan, effect in plans.items()}
            for name, plans in effects.items()
        }
        typer.echo(json.dumps(told, indent=2))
        return
    for name, plans in effects.items():
        Console(width=200).print(terminal(name, plans))


app.command()(report)
app.command()(comparison)

if __name__ == "__main__":
    app()
