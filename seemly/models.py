"""`seemly models`: checkpoints as files, fetched and hashed. For serving, a revision and a hash are pinned.

The hash is that of `/models`: over the weights of all parts, the detector's included, and the settings beside them.
"""

from pathlib import Path
from typing import Annotated

import typer

from seemly.commands.asking import AsJson
from seemly.commands.terminal import told, write_json
from seemly.errors import SeemlyError
from workers.checkpoint import UnusableModel, check_detector, fetch, find_folder, hash_weights

app = typer.Typer(help="Checkpoints as files.", no_args_is_help=True, pretty_exceptions_enable=False)

Source = Annotated[str, typer.Argument(help='A folder in diffusers\' layout, or a hub id like "owner/name".')]
Revision = Annotated[str | None, typer.Option(help="Commit of a hub id; without one, the newest.")]


@app.command(name="fetch")
def fetch_(
    source: Source,
    into: Annotated[Path, typer.Option(help="Folder to make, one for each revision; one that holds it is left alone.")],
    revision: Revision = None,
    sha256: Annotated[str | None, typer.Option(help="Hash it must have, else nothing stands in the folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Put a model into a folder and check its hash and its detector. Safetensors and settings only, no code."""
    with told(as_json) as console:
        try:
            into.parent.mkdir(parents=True, exist_ok=True)
            found = fetch(source, into, revision=revision or None, pinned=sha256 or None)
        except UnusableModel as error:
            raise SeemlyError(str(error)) from None
        if as_json:
            write_json({"folder": str(into), "source": source, "revision": revision, "weights_sha256": found})
            return
        console.print(f"{into} has the hash {found}", soft_wrap=True)
        if not sha256:
            console.print("Nothing was pinned: look at what it makes, then pin SEEMLY_MODEL_SHA256 to this hash.")


@app.command(name="hash")
def hash_(source: Source, revision: Revision = None, as_json: AsJson = False) -> None:
    """Tell the hash that SEEMLY_MODEL_SHA256 pins."""
    with told(as_json) as console:
        try:
            folder = find_folder(source, revision)
            check_detector(folder)
        except UnusableModel as error:
            raise SeemlyError(str(error)) from None
        found = hash_weights(folder)
        if as_json:
            write_json({"folder": str(folder), "weights_sha256": found})
        else:
            console.print(found, soft_wrap=True)
