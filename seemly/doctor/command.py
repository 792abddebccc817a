"""The command: every check in turn, what was found, and an exit code for programs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import NoPermissionError
from rich.console import Console

from seemly.commands.asking import AsJson, read_settings
from seemly.commands.terminal import FAILED, told, write_json
from seemly.doctor import gateway, model, redis, settings
from seemly.doctor.finding import Deployment, Finding, Findings, Process, State, skipped
from seemly.redis_process import RedisPlace
from service.settings import Settings as GatewaySettings
from service.webhooks.settings import Settings as DeliverySettings
from workers.settings import Settings as WorkerSettings

KEPT = {"workers": model.check_announced, "keys": gateway.check_keys, "webhooks": gateway.check_webhooks}  # in Redis
COLOURS = {State.OK: "green", State.SKIPPED: "dim", State.WARNING: "yellow", State.FAULT: "bold red"}

app = typer.Typer(pretty_exceptions_enable=False)


@app.command()
def doctor(
    of: Annotated[
        Process | None, typer.Option(help="Whose environment this is, where not that of all processes.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a deployment with the environment of its processes, and say what to do; 1 where anything is wrong.

    Looked at: settings, Redis, clock, GPU, model and detector, erased weights, provenance, workers, storage, policy,
    traces, keys, webhooks. Run it where a worker runs to see the GPU and the model.
    """
    with told(as_json) as console:
        found = list(examine(of))
        if as_json:
            write_json([{name: getattr(one, name) for name in ("check", "state", "told", "todo")} for one in found])
        else:
            show(console, found)
    if any(one.state is State.FAULT for one in found):
        raise typer.Exit(FAILED)


def examine(process: Process | None = None) -> Findings:
    """Everything that can be seen from here. What hangs on Redis is left out while it does not answer."""
    yield from settings.check(os.environ)
    try:
        with deployment(process) as at:
            yield from redis.check(at)
            for look in (
                *(model.check_device, model.check_model, model.check_variants, model.check_provenance),
                *(gateway.check_store, gateway.check_policy, gateway.check_anchors, gateway.check_traces),
            ):
                yield from look(at)
            if redis.answers(at):
                for check, look_up in KEPT.items():
                    try:
                        yield from look_up(at)
                    except NoPermissionError:
                        yield skipped(check, "this user of Redis may not see it; look where `seemly keys` is used")
    except ValidationError:
        return  # told with the settings; with these, nothing would run


@contextmanager
def deployment(process: Process | None) -> Iterator[Deployment]:
    """What the environment describes; without a Redis in it, the embedded stack, where one runs."""
    own = read_settings()
    data = own.data.expanduser().resolve()
    place = RedisPlace.of(data)
    if own.redis_url is None and place.is_up():
        described = (
            GatewaySettings(redis_url=place.url, data=data),
            WorkerSettings(
                redis_url=place.url,
                data=data,
                model=own.model,
                variants=Path(own.variants),
                model_name=own.model_name,
            ),
            DeliverySettings(redis_url=place.url, data=data),
        )
    else:
        described = GatewaySettings(), WorkerSettings(), DeliverySettings()
    url = described[0].redis_url
    with Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, decode_responses=True) as client:
        yield Deployment(*described, client, process, process in (None, Process.WORKER) and model.is_torch_here())


def show(console: Console, found: list[Finding]) -> None:
    """For people."""
    for one in found:
        console.print(f"{one.state.value:8}", style=COLOURS[one.state], end="")
        console.print(f"{one.check:12}{one.told}", markup=False, soft_wrap=True)
        if one.todo:
            console.print(f"{'':20}→ {one.todo}", markup=False, soft_wrap=True)
    faults, warnings = (sum(one.state is state for one in found) for state in (State.FAULT, State.WARNING))
    console.print(f"{faults} faults, {warnings} warnings.")
