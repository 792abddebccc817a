"""`seemly provenance`: a certificate to sign pictures with."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from seemly.commands.asking import AsJson
from seemly.commands.terminal import check_folder, told, write_json
from seemly.errors import FieldError, Unusable

app = typer.Typer(help="Where pictures came from.", no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def _is_a_group() -> None:
    """Without it Typer would take the only command for the whole."""


@app.command()
def certificate(
    out: Annotated[Path, typer.Option(help="Folder for the certificate, its key and its authority.")] = Path(
        "data/provenance"
    ),
    name: Annotated[str, typer.Option(help="Who signs, as it is told to others.")] = "Seemly development",
    days: Annotated[int, typer.Option(help="How long it is valid.", min=1, max=3650)] = 90,
    as_json: AsJson = False,
) -> None:
    """Make a certificate for development: what it signs is valid, and trusted by nobody who was not told to."""
    with told(as_json) as console:
        from seemly.certificates import make_certificate

        check_folder(out)
        if not name.strip():
            raise Unusable(FieldError("--name", "must not be empty"))
        written = make_certificate(out, name.strip(), timedelta(days=days))
        if as_json:
            write_json({"certificate": str(written.chain), "key": str(written.key), "authority": str(written.anchor)})
            return
        console.print(f"Wrote {written.chain}, {written.key} (keep it secret) and {written.anchor}")
        signing = {"": "signed", "_CERTIFICATE": written.chain, "_KEY": written.key}
        variables = " ".join(f"SEEMLY_PROVENANCE{name}={value}" for name, value in signing.items())
        console.print(f"Workers sign with:\n  {variables}", soft_wrap=True)
        console.print(f"A gateway trusts it with:\n  SEEMLY_PROVENANCE_ANCHORS={written.anchor}", soft_wrap=True)
