"""Commands that run the service, or one process of it."""

import os
import signal
import sys
import threading
from typing import Annotated

import typer

from seemly.commands.asking import read_settings
from seemly.commands.terminal import told


def serve(
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes any. Default: PORT, else 8000."),
    ] = None,
    lab: Annotated[
        bool, typer.Option("--lab", help="With a lab's worker, which makes erased weights. Default: SEEMLY_LAB.")
    ] = False,
) -> None:
    """Run the embedded stack (Redis, gateway, worker) until Ctrl-C."""
    with told() as console:
        from seemly.embedded import EmbeddedStack

        settings = read_settings()
        if port is not None:
            settings = settings.model_copy(update={"port": port})
        if lab:
            settings = settings.model_copy(update={"lab": True})
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


def gateway() -> None:
    """Run the gateway alone; its settings come from the environment."""
    _become("service.main")


def worker(
    lab: Annotated[bool, typer.Option("--lab", help="One that makes erased weights instead of pictures.")] = False,
) -> None:
    """Run a worker alone; its settings come from the environment."""
    _become("lab.worker" if lab else "workers.main")


def _become(module: str) -> None:
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", module])  # noqa: S606 - this very interpreter
