"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import json
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from seemly.errors import FieldError, Invalid, Refused, SeemlyError, Unusable

if TYPE_CHECKING:
    from rich.console import Console

    from contract.request import PicturesRequest
    from contract.result import JobView
    from seemly.settings import Settings

    Request = TypeVar("Request", bound=PicturesRequest)

DONE, FAILED, MISUSED, WITHHELD, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    help="Pictures from text, kept decent, with a verdict on every picture.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ApiKeyOption = Annotated[
    str | None, typer.Option("--api-key", help="Shown to the service (or SEEMLY_API_KEY, which others cannot see).")
]
Url = Annotated[
    str | None, typer.Option("--url", help="A running service (or SEEMLY_URL); without one, a stack is started here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures, result.json and contact-sheet.png.")] = Path(
        "out/demo"
    ),
    prompt: Annotated[str | None, typer.Option(help="Another prompt than the demonstration's.")] = None,
    num_images: Annotated[int | None, typer.Option(help="Pictures per job.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the first picture.")] = None,
    url: Url = None,
    api_key: ApiKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make the same pictures plain and under the filter, and show what the filter found."""
    with told(as_json) as console:
        from contract.request import GenerateRequest
        from seemly import demo as show
        from seemly.display import JobBars, verdict_table

        _check_folder(out)
        settings = read_settings(url, api_key)
        request = _request(
            GenerateRequest,
            prompt=prompt or show.PROMPT,
            num_images=show.PICTURES if num_images is None else num_images,
            seed=show.SEED if seed is None else seed,
        )
        own_data = {} if "data" in settings.model_fields_set else {"data": Path("data/demo")}
        with _service(settings.model_copy(update={"port": 0, **own_data}), console) as address:
            console.print(f'"{request.prompt}", {request.num_images} pictures from seed {request.seed}')
            with JobBars(console) as bars:
                jobs = show.run_jobs(address, request, bars, _api_key(settings))
        written = show.write_files(jobs, request, out)
        if as_json:
            write_json(json.loads((out / "result.json").read_text()) | {"files": [str(path) for path in written]})
            return
        console.print(verdict_table([(job.safety, job.view) for job in jobs]))
        console.print(f"Pictures, result.json and contact-sheet.png are in {out}")


@app.command()
def serve(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes any. Default: PORT, else 8000."),
    ] = None,
) -> None:
    """Run the embedded stack (Redis, gateway, worker) until Ctrl-C."""
    with told() as console:
        from seemly.embedded import EmbeddedStack

        settings = read_settings()
        if port is not None:
            settings = settings.model_copy(update={"port": port})
        stopped = threading.Event()
        stack = EmbeddedStack(settings)

        def stop(*_: object) -> None:
            if stopped.is_set():
                stack.hurry()
            stopped.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        try:
            with console.status("Starting Redis, gateway and worker"):
                stack.start(is_wanted=lambda: not stopped.is_set())
            if not stopped.is_set():
                console.print(
                    f"Serving on {stack.url} (description: {stack.url}/docs, logs: {stack.logs})", soft_wrap=True
                )
                if not stack.has_keys:
                    console.print("No API keys: only this machine is served. `seemly keys create TENANT` makes one.")
                console.print("Ctrl-C stops it.")
            while not stopped.wait(0.2):
                stack.check()
        finally:
            if stopped.is_set():
                console.print("Draining, Ctrl-C again to stop at once.")
            with console.status("Stopping"):
                stack.stop()
        console.print("Stopped.")


@app.command()
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
    api_key: ApiKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make pictures. Exit code 0: all were written; 3: some were withheld; 1: it failed."""
    with told(as_json) as console:
        from contract.request import GenerateRequest
        from seemly.client import Client
        from seemly.display import JobBars, verdict_table

        _check_folder(out)
        settings = read_settings(url, api_key)
        plan = {} if not safety else {"safety": safety[0] if len(safety) == 1 else tuple(safety)}
        request = _request(GenerateRequest, prompt=prompt, num_images=num_images, seed=seed, steps=steps, **plan)
        files = {}
        with (
            _service(settings.model_copy(update={"port": 0}), console) as address,
            Client(address, api_key=_api_key(settings)) as client,
        ):
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
            for path in paths:
                console.print(f"Wrote {path}")
        _leave_as(job, len(paths), request.num_images)


@app.command()
def explain(
    job: Annotated[str, typer.Argument(help="A job's id, as `generate` tells it.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The file to write; JOB.png when left out.")] = None,
    url: Url = None,
    api_key: ApiKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Draw a finished job: its concepts' scores over the steps, what was corrected, how the verdict came about."""
    with told(as_json) as console:
        from seemly.client import Client

        if re.fullmatch(r"[0-9a-f]{32}", job) is None:
            raise Unusable(FieldError("JOB", "is no job's id, which has 32 digits and letters a to f"))
        path = out or Path(f"{job}.png")
        _check_folder(path.parent)
        if path.is_dir():
            raise Unusable(FieldError("--out", f"{path} is a folder; name a file"))
        settings = read_settings(url, api_key)
        with (
            _service(settings.model_copy(update={"port": 0}), console) as address,
            Client(address, api_key=_api_key(settings)) as client,
        ):
            drawn = client.explanation(job)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(drawn)
        if as_json:
            write_json({"id": job, "file": str(path)})
        else:
            console.print(f"Wrote {path}")


@app.command()
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
    api_key: ApiKeyOption = None,
    as_json: AsJson = False,
) -> None:
    """Make one picture under each of several safety plans, and measure them against the first."""
    with told(as_json) as console:
        from contract.compare import CompareRequest
        from seemly.client import Client
        from seemly.compare import plan_named, write_files
        from seemly.display import JobBars, comparison_table

        _check_folder(out)
        settings = read_settings(url, api_key)
        request = _request(
            CompareRequest,
            prompt=prompt,
            plans=tuple(map(plan_named, plan)),
            labels=tuple(label) if label else None,
            negative_prompt=negative_prompt,
            seed=seed,
            steps=steps,
            guidance_scale=guidance_scale,
        )
        with (
            _service(settings.model_copy(update={"port": 0}), console) as address,
            Client(address, api_key=_api_key(settings)) as client,
        ):
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
            console.print(f"Pictures, result.json and contact-sheet.png are in {out}")
        _leave_as(job, len(files), len(request.plans))


@app.command()
def gateway() -> None:
    """Run the gateway alone; its settings come from the environment."""
    _become("service.main")


@app.command()
def worker() -> None:
    """Run a worker alone; its settings come from the environment."""
    _become("workers.main")


@app.command(name="keys", context_settings=_PASSED_ON, add_help_option=False)
def keys_(context: typer.Context) -> None:
    """Make, list, rotate and revoke API keys."""
    _pass_on("seemly.keys", context)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def bench(context: typer.Context) -> None:
    """Measure the service and its parts."""
    _pass_on("lab.bench.commands", context)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def evaluate(context: typer.Context) -> None:
    """Measure safety methods on a model, and calibrate them for it."""
    _pass_on("lab.evaluation.commands", context)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def world(context: typer.Context) -> None:
    """Draw the demonstration world, train its model."""
    _pass_on("lab.world.commands", context)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def erase(context: typer.Context) -> None:
    """Erase concepts from a model's weights: ESD, SDD, UCE."""
    _pass_on("lab.erasure.commands", context)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def variants(context: typer.Context) -> None:
    """List, verify and measure erased weights."""
    _pass_on("lab.erasure.variant_commands", context)


@contextmanager
def told(as_json: bool = False) -> "Iterator[Console]":
    """A console for what people read (on stderr when stdout is for a program); errors become one plain message."""
    from rich.console import Console

    console = Console(stderr=as_json, highlight=False)
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        yield console
    except (SeemlyError, OSError) as error:  # the latter of the caller's files and folders
        told = _as_json(error)
        if as_json:
            sys.stderr.write(json.dumps({"error": told}) + "\n")
        else:
            errors.print("error:", style="bold red", end=" ")
            errors.print(str(error) if isinstance(error, SeemlyError) else told["detail"], markup=False)
            for field in error.errors if isinstance(error, Invalid) else ():
                errors.print(f"  {field.field}: {field.message}", markup=False)
        raise typer.Exit(FAILED) from None
    except KeyboardInterrupt:
        errors.print("Interrupted.")
        raise typer.Exit(INTERRUPTED) from None


def _as_json(error: SeemlyError | OSError) -> dict[str, Any]:
    named = error.errors if isinstance(error, Refused | Unusable) else ()
    fields = [{"field": field.field, "message": field.message} for field in named]
    match error:
        case Refused():
            told = {"code": error.code, "status": error.status, "detail": error.detail, "request_id": error.request_id}
        case OSError(filename=str(name), strerror=str(why)):
            told = {"code": type(error).__name__, "detail": f"{name}: {why}"}
        case _:
            told = {"code": type(error).__name__, "detail": str(error)}
    return told | {"errors": fields}


def read_settings(url: str | None = None, api_key: str | None = None) -> "Settings":
    """The environment's settings, with what the command itself was told in their place."""
    from pydantic import SecretStr, ValidationError

    from seemly.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        raise Unusable(*_named(error), where="the environment holds settings that cannot be used: ") from None
    own = {"url": url, "api_key": None if api_key is None else SecretStr(api_key)}
    return settings.model_copy(update={name: value for name, value in own.items() if value is not None})


def _request(kind: "type[Request]", **values: Any) -> "Request":
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        raise Unusable(*_named(error)) from None


def _named(error: Any) -> Iterator[FieldError]:
    from contract.wording import wording

    for entry in error.errors():
        location = entry["loc"]
        if (depth := {"safety": 1, "plans": 2}.get(location[0] if location else "")) is not None:
            location = location[:depth]  # below, pydantic also names which of a plan's forms was tried
        yield FieldError(".".join(map(str, location)), wording(entry))


def _check_folder(folder: Path) -> None:
    """Told before anything runs for nothing."""
    taken = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if taken.exists() and not taken.is_dir():
        raise Unusable(FieldError("--out", f"{taken} is a file; name a folder"))


@contextmanager
def _service(settings: "Settings", console: "Console") -> Iterator[str]:
    """The address of the service asked for, or of a stack that runs as long as it is needed."""
    if settings.url is not None:
        yield settings.url
        return
    from seemly.embedded import EmbeddedStack

    stack = EmbeddedStack(settings)
    with console.status("Starting Redis, gateway and worker"):
        stack.start()
    try:
        yield stack.url
    finally:
        with console.status("Stopping"):
            stack.stop()


def _api_key(settings: "Settings") -> str | None:
    return settings.api_key.get_secret_value() if settings.api_key else None


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


def _leave_as(job: "JobView", written: int, wanted: int) -> None:
    from contract.result import Status

    if job.status not in (Status.SUCCEEDED, Status.PARTIAL, Status.BLOCKED):
        raise SeemlyError(job.error.message if job.error else f"the job ended as {job.status.value}")
    if written < wanted:
        raise typer.Exit(WITHHELD)


def write_json(value: Any) -> None:
    """For programs, on stdout."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def _become(module: str) -> None:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606 - this very interpreter


def _pass_on(module: str, context: typer.Context) -> None:
    """Run another module's command line with the words that follow."""
    with told():
        try:
            commands = import_module(module)
        except ModuleNotFoundError as error:
            raise SeemlyError(
                f"this command needs {error.name}, which is not installed here: it comes with the repository and the"
                ' extras, pip install -e ".[gpu]"'
            ) from None
        commands.app(context.args, prog_name=f"seemly {context.info_name}")


if __name__ == "__main__":
    app()
