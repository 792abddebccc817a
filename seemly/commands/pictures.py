"""Commands that make pictures, and draw what became of them."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seemly.commands.asking import ApiKey, AsJson, Url, api_key_of, connected, read_settings, request_of, running
from seemly.commands.terminal import check_folder, leave_as, told, write_json

if TYPE_CHECKING:
    from contract.result import JobView


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures, result.json and contact-sheet.png.")] = Path(
        "out/demo"
    ),
    prompt: Annotated[str | None, typer.Option(help="Another prompt than the demonstration's.")] = None,
    num_images: Annotated[int | None, typer.Option(help="Pictures per job.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make the same pictures plain and under the filter, and show what the filter found."""
    with told(as_json) as console:
        from contract.request import GenerateRequest
        from seemly import demo as show
        from seemly.display import JobBars, verdict_table

        check_folder(out)
        settings = read_settings(url, api_key)
        request = request_of(
            GenerateRequest,
            prompt=prompt or show.PROMPT,
            num_images=show.PICTURES if num_images is None else num_images,
            seed=show.SEED if seed is None else seed,
        )
        own_data = {} if "data" in settings.model_fields_set else {"data": Path("data/demo")}
        with running(settings.model_copy(update=own_data), console) as address:
            console.print(f'"{request.prompt}", {request.num_images} pictures from seed {request.seed}')
            with JobBars(console) as bars:
                jobs = show.run_jobs(address, request, bars, api_key_of(settings))
        written = show.write_files(jobs, request, out)
        if as_json:
            write_json(json.loads((out / "result.json").read_text()) | {"files": [str(path) for path in written]})
            return
        console.print(verdict_table([(job.safety, job.view) for job in jobs]))
        console.print(f"Pictures, result.json and contact-sheet.png are in {out}")


def generate(
    prompt: Annotated[str, typer.Argument(help="What to show.")],
    safety: Annotated[
        list[str] | None, typer.Option(help='A method, as in "filter:blur", "sld:max" or "none"; may be repeated.')
    ] = None,
    num_images: Annotated[int, typer.Option(help="How many pictures.")] = 1,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture; drawn at random when left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default when left out.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make pictures. Exit code 0: all were written; 3: some were withheld; 1: it failed."""
    with told(as_json) as console:
        from contract.request import GenerateRequest
        from seemly.display import JobBars, verdict_table, why_unmade

        check_folder(out)
        settings = read_settings(url, api_key)
        plan = {} if not safety else {"safety": safety[0] if len(safety) == 1 else tuple(safety)}
        request = request_of(GenerateRequest, prompt=prompt, num_images=num_images, seed=seed, steps=steps, **plan)
        files = {}
        with connected(settings, console) as client:
            with JobBars(console) as bars:
                bar = bars.add(request.prompt)
                job = client.wait(client.generate(request).id, on_event=lambda event: bars.note(bar, event))
            for picture in job.images:
                if picture.url is not None:
                    files[picture.index] = client.image(job.id, picture.index)
        paths = _write_pictures(job, files, out)
        if as_json:
            write_json(job.model_dump(mode="json") | {"files": [str(path) for path in paths]})
        else:
            console.print(verdict_table([(_plan_name(safety), job)]))
            for why in why_unmade(job):
                console.print(why, markup=False)
            for path in paths:
                console.print(f"Wrote {path}")
        leave_as(job, len(paths), request.num_images)


def compare(
    prompt: Annotated[str, typer.Argument(help="What to show.")],
    plan: Annotated[
        list[str], typer.Option(help='A safety plan, as in "none", "sld:medium" or "safree+filter"; twice or more.')
    ],
    label: Annotated[list[str] | None, typer.Option(help="What a plan is called; for each of them, or none.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What not to show, under every plan.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every picture; drawn at random when left out.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps; the model's default when left out.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to keep to the prompt.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures, result.json and contact-sheet.png.")] = Path(
        "out/compare"
    ),
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Make one picture under each of several safety plans, and measure them against the first."""
    with told(as_json) as console:
        from contract.compare import CompareRequest
        from seemly.compare import plan_named, write_files
        from seemly.display import JobBars, comparison_table, why_unmade

        check_folder(out)
        settings = read_settings(url, api_key)
        request = request_of(
            CompareRequest,
            prompt=prompt,
            plans=tuple(map(plan_named, plan)),
            labels=tuple(label) if label else None,
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
        )
        with connected(settings, console) as client:
            with JobBars(console) as bars:
                bar = bars.add(request.prompt)
                job = client.wait(client.compare(request).id, on_event=lambda event: bars.note(bar, event))
            files = {p.index: client.image(job.id, p.index) for p in job.images if p.url is not None}
            sheet = client.contact_sheet(job.id) if job.images else None
        paths = write_files(job, request, files, sheet, out)
        if as_json:
            write_json(job.model_dump(mode="json") | {"files": [str(path) for path in paths]})
        else:
            console.print(comparison_table(job))
            for why in why_unmade(job):
                console.print(why, markup=False)
            console.print(f"Pictures, result.json and contact-sheet.png are in {out}")
        leave_as(job, len(files), len(request.plans))


def _plan_name(safety: list[str] | None) -> str:
    return " + ".join(safety) if safety else "filter"


def _write_pictures(job: "JobView", files: dict[int, bytes], folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, file in files.items():
        path = folder / f"{job.id}-{index}.png"
        path.write_bytes(file)
        paths.append(path)
    return paths
