"""Commands whose words are another module's, which is imported only when they run."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Final

import typer

from seemly.commands.terminal import told
from seemly.errors import SeemlyError

# name → module with a Typer `app`, and what `seemly --help` says of it
ELSEWHERE: Final = {
    "keys": ("seemly.keys", "Make, list, rotate and revoke API keys."),
    "policies": ("seemly.policies", "List, check, add, assign and replay policies."),
    "audit": ("seemly.audit", "Export and verify what is on record of pictures, delete what is old."),
    "calibrate": ("seemly.calibrate", "Hold thresholds against what people said of withheld pictures."),
    "webhooks": ("seemly.webhooks", "Make signing secrets, deliver webhooks, send them again."),
    "models": ("seemly.models", "Fetch models, tell and check their hashes."),
    "doctor": ("seemly.doctor.command", "Check a deployment, and say what to do."),
    "provenance": ("seemly.provenance", "Make a certificate to sign pictures with."),
    "bench": ("lab.bench.commands", "Measure the service and its parts."),
    "evaluate": ("lab.evaluation.commands", "Measure safety methods on a model, and calibrate them for it."),
    "world": ("lab.world.commands", "Draw the demonstration world, train its model."),
    "erase": ("lab.erasure.commands", "Erase concepts from a model's weights: ESD, SDD, UCE."),
    "rebuild": ("lab.rebuild", "Rebuild the demo model and all that is measured on it."),
    "variants": ("lab.erasure.variant_commands", "List, verify, measure, promote and retire erased weights."),
}


def add_elsewhere(app: typer.Typer) -> None:
    """Add every command that another module has."""
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    for name, (module, said) in ELSEWHERE.items():
        app.command(name, help=said, context_settings=passed_on, add_help_option=False)(_pass_on(module))


def _pass_on(module: str) -> Callable[[typer.Context], None]:
    def run(context: typer.Context) -> None:
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it begins with what is of no concern here
        with told():
            try:
                commands = import_module(module)
            except ModuleNotFoundError as error:
                raise SeemlyError(
                    f"this command needs {error.name}, which is not installed here: it comes with the repository and"
                    ' the extras, pip install -e ".[gpu]"'
                ) from None
            commands.app(context.args, prog_name=f"seemly {context.info_name}")

    return run
