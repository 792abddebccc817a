"""`python -m lab.environment`: .env.example, written from the settings' own descriptions."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from seemly.doctor.settings import KINDS, variables

HEAD = """\
# Settings of docker-compose.yml and of every process, written by `make docs`; copy this file to .env.
# A setting that is commented out has the value it has by default.

# ---- Needed by docker-compose.yml. `openssl rand -hex 32` makes one of each.

# Passwords of the two users of Redis: of gateway, webhooks and commands, and of workers.
REDIS_GATEWAY_PASSWORD=
REDIS_WORKER_PASSWORD=

# Key and secret of the object store.
STORE_ACCESS_KEY=
STORE_SECRET_KEY=

# Secret under which API keys are kept, and from which signing secrets are derived. With it lost, all keys are.
SEEMLY_PEPPER=

# Password of Grafana's user admin, on port 3000 of this machine.
GRAFANA_PASSWORD=

# Where the gateway is reached from outside of docker compose.
#GATEWAY_PUBLISHED=127.0.0.1:8000

# ---- Every setting of the processes named before it. Under docker compose, REDIS_URL, SEEMLY_STORE_URL, SEEMLY_DATA,
# hosts, ports and the paths of models are said there already. A store in a bucket takes the provider's own variables
# as well: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL, ...
"""
WIDTH = 118
TOLD_ABOVE = {"SEEMLY_PEPPER"}


def settings() -> dict[str, dict[str, FieldInfo]]:
    """Every variable, with the processes that read it. Of several names, the one that most of them take."""
    readers = Counter(name for kind in KINDS.values() for name in variables(kind))
    found: dict[str, dict[str, FieldInfo]] = {}
    for process, kind in KINDS.items():
        for field, info in kind.model_fields.items():
            names = [name for name, of in variables(kind).items() if of == field]
            best = max(names, key=lambda name: (readers[name], -names.index(name)))
            found.setdefault(best, {})[process] = info
    return found


def example() -> str:
    """The whole file."""
    parts = [HEAD]
    parts += [_entry(name, readers) for name, readers in settings().items() if name not in TOLD_ABOVE]
    return "\n".join(parts)


def _entry(name: str, readers: dict[str, FieldInfo]) -> str:
    told = next(info.description for info in readers.values() if info.description)
    lines = wrap(f"{', '.join(readers)}: {told}", WIDTH - 2, break_on_hyphens=False, break_long_words=False)
    return "\n".join([*(f"# {line}" for line in lines), f"#{name}={_shown(next(iter(readers.values())).default)}", ""])


def _shown(default: Any) -> str:
    match default:
        case None | ():
            return ""
        case bool():
            return str(default).lower()
        case tuple():
            return ",".join(f"{part:g}" for part in default)
        case _ if default is PydanticUndefined:
            return ""
    return str(_relative(default)) if isinstance(default, str | Path) else json.dumps(default)


def _relative(default: str | Path) -> str | Path:
    """A folder of this repository by its name within, wherever it lies here."""
    root = Path(__file__).resolve().parent.parent
    path = Path(default)
    return path.relative_to(root) if path.is_relative_to(root) else default


def write(file: Annotated[Path, typer.Argument(help="Where the file lies.")] = Path(".env.example")) -> None:
    """Write the example of an environment anew."""
    file.write_text(example())
    typer.echo(f"{file} written")


def variables_in(text: str) -> Iterator[str]:
    """The variables that such a file explains or sets."""
    for line in text.splitlines():
        name, equals, _ = line.removeprefix("#").partition("=")
        if equals and name.isupper() and " " not in name:
            yield name


if __name__ == "__main__":
    typer.run(write)
