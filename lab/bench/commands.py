"""`seemly bench`: how fast the engine and the service are here, always against something else in the same run."""

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table

from lab.bench.autoscale.comparison import SLO_WAIT_S, Scenario, draw, figures
from lab.bench.autoscale.comparison import compare as compare_scaling
from lab.bench.autoscale.cost import CostModel, Measured, read_measured
from lab.bench.engine import compare
from lab.bench.gateway import compare_gateway
from lab.bench.interleaved import Timing
from lab.bench.profile import profile_job
from lab.bench.service import compare_service
from lab.bench.unguidance import compare_gate
from lab.bench.variants import compare_variants

app = typer.Typer(help="Benchmarks: ratios in one run, arms interleaved.", no_args_is_help=True)

Model = Annotated[str, typer.Option(help="Folder or hub id of the model.")]
Steps = Annotated[int, typer.Option(min=1, max=150)]
Repeats = Annotated[int, typer.Option(min=4, help="Rounds of every arm, after one to warm up.")]
Json = Annotated[bool, typer.Option("--json", help="Print the measurements as JSON.")]


@app.command()
def engine(
    model: Model = "models/demo",
    batch: Annotated[list[int] | None, typer.Option(help="Pictures at once; repeatable. Default: 1, 4, 16.")] = None,
    steps: Steps = 20,
    repeats: Repeats = 10,
    as_json: Json = False,
) -> None:
    """The engine against diffusers' StableDiffusionPipeline, both with the safety checker."""
    comparisons = compare(model, tuple(batch or (1, 4, 16)), steps=steps, repeats=repeats)
    if as_json:
        print(json.dumps([asdict(row) | {"steps": steps, "ratio": row.ratio} for row in comparisons]))  # noqa: T201
        return
    table = Table(title=f"{model}, {steps} steps, {repeats} rounds, {torch.get_num_threads()} threads")
    for heading in ("pictures at once", "engine pictures/s", "pipeline pictures/s", "engine / pipeline"):
        table.add_column(heading, justify="right")
    for row in comparisons:
        rates = (_rate(row.pictures, timing) for timing in (row.engine, row.pipeline))
        table.add_row(str(row.pictures), *rates, f"{row.ratio:.3f}")
    best = max(row.pictures / row.pipeline.median for row in comparisons)
    most = max(row.pictures / row.engine.median for row in comparisons)
    table.caption = f"the engine's best over the pipeline's best batch: {most / best:.3f}"
    Console().print(table)


@app.command()
def service(
    model: Model = "models/demo",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures a round, one a request.")] = 64,
    concurrency: Annotated[int, typer.Option(min=1, max=64)] = 16,
    steps: Steps = 20,
    repeats: Repeats = 6,
    as_json: Json = False,
) -> None:
    """Requests over HTTP, Redis and a worker against the bare engine."""
    with TemporaryDirectory(prefix="seemly-bench-") as data:
        row = compare_service(
            model, Path(data), pictures=pictures, concurrency=concurrency, steps=steps, repeats=repeats
        )
    if as_json:
        print(json.dumps(asdict(row) | {"share": row.share}))  # noqa: T201
        return
    Console().print(
        f"{concurrency} requests at a time, {steps} steps: engine {_rate(pictures, row.engine)} pictures/s, "
        f"service {_rate(pictures, row.service)} pictures/s, service / engine {row.share:.3f}"
    )


@app.command()
def gateway(
    model: Model = "models/demo",
    requests: Annotated[int, typer.Option(min=1, help="Requests a round.")] = 1000,
    connections: Annotated[int, typer.Option(min=1, max=256, help="Connections at a time.")] = 16,
    streams: Annotated[int, typer.Option(min=1, help="Event streams open at once.")] = 500,
    repeats: Repeats = 10,
    as_json: Json = False,
) -> None:
    """The gateway against a bare FastAPI app that only calls RQ's enqueue and reads one Redis hash."""
    with TemporaryDirectory(prefix="seemly-bench-") as data:
        row = compare_gateway(
            model, Path(data), requests=requests, connections=connections, repeats=repeats, streams=streams
        )
    pairs = {"POST /generate": row.generate, "GET a queued job": row.queued, "GET a finished job": row.finished}
    if as_json:
        print(json.dumps(asdict(row) | {"ratios": {name: pair.ratio for name, pair in pairs.items()}}))  # noqa: T201
        return
    table = Table(title=f"{requests} requests a round on {connections} connections, {repeats} rounds")
    for heading in ("", "gateway requests/s", "bare requests/s", "gateway / bare", "CPU µs", "bare CPU µs"):
        table.add_column(heading, justify="right")
    for name, pair in pairs.items():
        rates = (_rate(pair.requests, timing) for timing in (pair.gateway, pair.bare))
        table.add_row(name, *rates, f"{pair.ratio:.3f}", f"{pair.gateway_cpu_us:.0f}", f"{pair.bare_cpu_us:.0f}")
    open_ = row.streams
    table.caption = (
        f"{open_.count} event streams open on one process: {open_.open_mb:.0f} MB, {open_.before_mb:.0f} MB before;"
        f" {open_.told} were told their job's end"
    )
    Console().print(table)


@app.command()
def unguidance(
    model: Model = "models/demo",
    pictures: Annotated[int, typer.Option(min=1, help="Pictures a round, all at once.")] = 10,
    tripping: Annotated[int, typer.Option(min=0, help="Of these, pictures that are corrected at every step.")] = 2,
    steps: Steps = 20,
    repeats: Repeats = 6,
    as_json: Json = False,
) -> None:
    """Unguidance with its gate against the same with gradients for every row at every step."""
    if tripping > pictures:
        raise typer.BadParameter(f"{tripping} of {pictures} pictures cannot trip", param_hint="--tripping")
    row = compare_gate(model, pictures=pictures, tripping=tripping, steps=steps, repeats=repeats)
    if as_json:
        print(json.dumps(asdict(row) | {"share": row.share, "share_of_method": row.share_of_method}))  # noqa: T201
        return
    Console().print(
        f"{row.tripping} of {row.pictures} pictures trip, {steps} steps: with the gate {_rate(pictures, row.gated)} "
        f"pictures/s, gradients at every step {_rate(pictures, row.ungated)} pictures/s; time with the gate / without "
        f"{row.share:.3f}, of the method's own part {row.share_of_method:.3f}"
    )


@app.command()
def variants(
    model: Model = "models/demo",
    count: Annotated[int, typer.Option("--variants", help="Erased weights of the kind kv_only, made for this.")] = 4,
    pictures: Annotated[int, typer.Option(min=1, help="Pictures a round, all at once.")] = 4,
    steps: Steps = 20,
    repeats: Repeats = 10,
    as_json: Json = False,
) -> None:
    """Rows of several erased weights in one batch against the same rows of one of them."""
    with TemporaryDirectory(prefix="seemly-bench-") as folder:
        try:
            row = compare_variants(model, Path(folder), variants=count, pictures=pictures, steps=steps, repeats=repeats)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--variants") from None
    if as_json:
        print(json.dumps(asdict(row) | {"ratio": row.ratio}))  # noqa: T201
        return
    Console().print(
        f"{pictures} pictures at once, {steps} steps, {repeats} rounds: {count} variants "
        f"{_rate(pictures, row.several)} pictures/s, one {_rate(pictures, row.one)} pictures/s; "
        f"time of {count} / of one {row.ratio:.3f}"
    )


@app.command()
def autoscale(
    measured: Annotated[
        list[Path] | None,
        typer.Option(help="What `seemly bench engine --json` printed; repeatable. Default: it is measured now."),
    ] = None,
    model: Model = "models/demo",
    pods: Annotated[float, typer.Option(min=0.1, help="Pods that the day's mean keeps busy.")] = 3,
    hours: Annotated[float, typer.Option(min=0.5, max=168, help="Length of the day.")] = 24,
    start: Annotated[float, typer.Option(min=0, help="Seconds from a pod's creation until it is ready.")] = 90,
    price: Annotated[float | None, typer.Option(min=0, help="Of one pod's hour, in any currency.")] = None,
    seed: Annotated[int, typer.Option(help="Of the day's arrivals.")] = 1,
    plot: Annotated[Path | None, typer.Option(help="Draw the day into this file.")] = None,
    as_json: Json = False,
) -> None:
    """A simulated day under the shipped scaling rules, and under scaling by the backlog alone."""
    try:
        rounds = [one for file in measured for one in read_measured(file)] if measured else _measured_now(model)
        cost = CostModel.fit(rounds)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--measured") from None
    scenario = Scenario(cost, pods, hours, start, seed)
    rows = compare_scaling(scenario)
    if plot is not None:
        draw(rows, scenario).savefig(plot, dpi=130)
    told = [figures(row) | ({} if price is None else {"cost": round(row.came.pod_hours * price, 2)}) for row in rows]
    if as_json:
        print(json.dumps({"cost_model": asdict(cost), "error": cost.error(rounds), "rows": told}))  # noqa: T201
        return
    table = Table(title=f"{told[0]['jobs']} jobs in {hours:g} h; SLO: p95 of the wait within {SLO_WAIT_S:g} s")
    for heading in ("scaled by", "p50 s", "p95 s", "p99 s", "SLO", "pod h", "busy", "cost"):
        table.add_column(heading, justify="left" if heading == "scaled by" else "right", no_wrap=True)
    for row in told:
        kept = "kept" if row["keeps_slo"] else "missed"
        waits = (f"{row[f'wait_p{share}_s']:.1f}" for share in (50, 95, 99))
        rest = (f"{row['pod_hours']:.0f}", f"{row['busy']:.0%}", str(row.get("cost", "")))
        table.add_row(str(row["name"]), *waits, kept, *rest)
    table.caption = (
        f"a tick takes {cost.overhead_s * 1e3:.2f} ms and {cost.per_row_s * 1e3:.2f} ms a row, within"
        f" {cost.error(rounds):.0%} of what was measured"
    )
    Console().print(table)


@app.command(name="profile")
def profile_(
    prompt: Annotated[str, typer.Argument(help="What to draw.")],
    model: Model = "models/demo",
    safety: Annotated[
        list[str] | None, typer.Option(help="As in `seemly generate`; repeatable. Default: none.")
    ] = None,
    pictures: Annotated[int, typer.Option(min=1, max=64)] = 1,
    steps: Steps = 20,
    shown: Annotated[int, typer.Option(min=1, help="Operators to list.")] = 12,
    trace: Annotated[Path | None, typer.Option(help="Write the whole trace there, for chrome://tracing.")] = None,
    as_json: Json = False,
) -> None:
    """One job under torch's profiler: its time by stage and by operator."""
    plan = safety or ["none"]
    try:
        told = profile_job(model, prompt=prompt, safety=plan, pictures=pictures, steps=steps, trace=trace)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--safety") from None
    if as_json:
        print(json.dumps(asdict(told)))  # noqa: T201
        return
    stages = ", ".join(f"{name} {seconds * 1e3:.1f} ms" for name, seconds in told.stages_s.items())
    table = Table("operator", title=f"{told.seconds * 1e3:.1f} ms; summed over the pictures: {stages}")
    for heading in ("calls", "own CPU ms", "own device ms"):
        table.add_column(heading, justify="right")
    for each in told.operators[:shown]:
        table.add_row(each.name, str(each.calls), f"{each.cpu_ms:.2f}", f"{each.device_ms:.2f}")
    table.caption = f"{told.ticks} ticks, {told.unet_rows} UNet rows and {told.padding_rows} of padding"
    Console().print(table)


def _measured_now(model: str) -> list[Measured]:
    rows = compare(model, (1, 2, 4, 8, 16), steps=20, repeats=4)
    return [Measured(row.pictures, 20, row.engine.median) for row in rows]


def _rate(pictures: int, timing: Timing) -> str:
    slow, fast = sorted(pictures / seconds for seconds in timing.quartiles)
    return f"{pictures / timing.median:.2f} ({slow:.2f}–{fast:.2f})"


if __name__ == "__main__":
    app()
