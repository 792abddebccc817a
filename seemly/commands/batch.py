"""`seemly batch`: pictures of every prompt in a file, with a table of what became of each."""

import asyncio
import hashlib
import os
import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seemly.commands.asking import ApiKey, AsJson, Url, api_key_of, read_settings, running, unusable
from seemly.commands.terminal import WITHHELD, check_folder, told, write_json
from seemly.errors import FieldError, SeemlyError, Unusable

if TYPE_CHECKING:
    from rich.console import Console

    from seemly.batch import Batch
    from seemly.ledger import Ledger, PictureRow
    from seemly.settings import Settings

SHOWN_CONCEPTS = 5


def batch(
    prompts: Annotated[
        Path, typer.Argument(help="A text file with one prompt a line, or a CSV with a column `prompt`, as I2P's.")
    ],
    safety: Annotated[
        list[str] | None, typer.Option(help='A method, as in "filter:blur", "sld:max" or "none"; may be repeated.')
    ] = None,
    num_images: Annotated[int, typer.Option(min=1, max=1000, help="Pictures of each prompt.")] = 1,
    seed: Annotated[
        int | None, typer.Option(help="Of the first picture; those of the file, or one at random, when left out.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default when left out.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="In the place of the file's, as the next three.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to show.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="ddim, euler or dpm++2m.")] = None,
    model: Annotated[str | None, typer.Option(help="A model of the service; its default when left out.")] = None,
    output_format: Annotated[str | None, typer.Option(help="png, jpeg or webp.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts; more may follow later.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="Jobs in flight at a time.")] = 8,
    unet_path: Annotated[
        Path | None, typer.Option(help="A diffusers UNet folder to make the pictures with, on a stack started here.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the batch; one that was begun goes on.")] = Path("out/batch"),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make pictures of every prompt in a file. Stop it in any way: the same command goes on where it was.

    Exit code 0: every picture was written; 3: some were withheld; 1: some could not be made.
    """
    with told(as_json) as console:
        from seemly.batch import Batch
        from seemly.ledger import Ledger
        from seemly.prompts import UnusablePrompts, read_prompts

        check_folder(out)
        settings = read_settings(url, api_key)
        try:
            found = read_prompts(prompts)
        except UnusablePrompts as error:
            raise Unusable(FieldError("PROMPTS", str(error))) from None
        unet_sha256 = None
        if unet_path is not None:
            settings, safety, unet_sha256 = _with_unet(unet_path, settings, safety, console)
        plan = None if not safety else safety[0] if len(safety) == 1 else tuple(safety)
        options = {
            "safety": plan,
            "seed": seed,
            "steps": steps,
            "guidance_scale": guidance_scale,
            "width": width,
            "height": height,
            "negative_prompt": negative_prompt,
            "scheduler": scheduler,
            "model": model,
            "output_format": output_format,
        }
        asked = {f"--{name.replace('_', '-')}": value for name, value in options.items()}
        asked |= {"PROMPTS": hashlib.sha256(prompts.read_bytes()).hexdigest(), "--num-images": num_images}
        wanted = Batch(found[:limit], options, num_images)
        _check_requests(wanted, prompts)
        with Ledger(out) as ledger:
            ledger.open(asked | {"--unet-path": unet_sha256}, _first_seed(seed))
            try:
                _run(wanted, ledger, settings, jobs, console)
            finally:
                ledger.write_table()
        _tell(wanted, ledger, console, as_json)


def _with_unet(
    unet: Path, settings: "Settings", safety: list[str] | None, console: "Console"
) -> "tuple[Settings, list[str], str]":
    """Settings and plan with which a stack started here serves a UNet of others, and the UNet's digest."""
    if settings.url is not None:
        raise Unusable(FieldError("--unet-path", "is for a stack started here; leave out --url (or SEEMLY_URL)"))
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it begins with what it warns of while imported
    from workers.checkpoint import UnusableModel
    from workers.variants.importing import import_variant
    from workers.variants.reading import UnusableVariant

    shelf = settings.data / "imported"
    try:
        with console.status(f"Comparing {unet} with the model's own UNet"):
            card = import_variant(unet, settings.model, shelf, replace=True)
    except (UnusableVariant, UnusableModel) as error:
        raise Unusable(FieldError("--unet-path", str(error))) from None
    beside = [name for name in safety or ["filter"] if name != "none"]
    return settings.model_copy(update={"variants": str(shelf)}), [*beside, f"erased:{card.name}"], card.weights_sha256


def _first_seed(seed: int | None) -> int:
    from contract.request import MAX_SEED

    return seed if seed is not None else secrets.randbelow(MAX_SEED)


def _check_requests(batch: "Batch", file: Path) -> None:
    """Whatever can be told of a request without the service is told before anything starts."""
    from pydantic import ValidationError

    for prompt in batch.prompts:
        try:
            batch.request(prompt, 0)
        except ValidationError as error:
            raise unusable(error, f"{file}, prompt {prompt.number}: ") from None


def _run(batch: "Batch", ledger: "Ledger", settings: "Settings", most_jobs: int, console: "Console") -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from seemly.batch import run
    from seemly.client import AsyncClient

    missing = list(batch.missing(ledger))
    if not missing:
        return
    left = sum(piece.request.num_images for piece in missing)
    found = TextColumn("{task.fields[found]}")
    columns = (TextColumn("pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), found)

    async def make(address: str, bars: Progress) -> None:
        bar = bars.add_task("", total=batch.size, completed=batch.size - left, found="")

        verdicts = _verdicts(batch, ledger)

        def on_rows(rows: "list[PictureRow]") -> None:
            verdicts.update(row.verdict for row in rows)
            bars.update(bar, advance=len(rows), found=_in_words(verdicts))

        async with AsyncClient(address, api_key=api_key_of(settings)) as client:
            await run(client, iter(missing), ledger, most_jobs, on_rows)

    with running(settings, console) as address, Progress(*columns, console=console) as bars:
        asyncio.run(make(address, bars))


def _tell(batch: "Batch", ledger: "Ledger", console: "Console", as_json: bool) -> None:
    verdicts = _verdicts(batch, ledger)
    flagged = Counter(concept for row in batch.rows(ledger) for concept in row.flagged)
    passed, withheld = verdicts["passed"], verdicts["blocked"] + verdicts["review"]
    if as_json:
        write_json(
            {
                "pictures": batch.size,
                "verdicts": dict(verdicts),
                "flagged": dict(flagged.most_common()),
                "table": str(ledger.table),
                "folder": str(ledger.pictures),
            }
        )
    else:
        console.print(f"{batch.size} pictures of {len(batch.prompts)} prompts: {_in_words(verdicts)}")
        if flagged:
            shown = ", ".join(f"{concept} {count}" for concept, count in flagged.most_common(SHOWN_CONCEPTS))
            console.print(f"Most found: {shown}")
        console.print(f"The table is {ledger.table}, the pictures are in {ledger.pictures}")
    if passed + withheld < batch.size:
        raise SeemlyError(
            f"{batch.size - passed - withheld} pictures could not be made; {ledger.table} says why, and the same"
            " command tries them again"
        )
    if withheld:
        raise typer.Exit(WITHHELD)


def _verdicts(batch: "Batch", ledger: "Ledger") -> Counter[str]:
    return Counter(row.verdict for row in batch.rows(ledger))


def _in_words(verdicts: Counter[str]) -> str:
    return ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
