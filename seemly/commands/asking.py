"""What commands that talk to a service have in common: their options, their settings, the service itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from seemly.errors import FieldError, Unusable

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.console import Console

    from contract.strict import Strict
    from seemly.client import Client
    from seemly.settings import Settings

    Request = TypeVar("Request", bound=Strict)

ApiKey = Annotated[
    str | None, typer.Option("--api-key", help="Shown to the service (or SEEMLY_API_KEY, which others cannot see).")
]
Url = Annotated[
    str | None, typer.Option("--url", help="A running service (or SEEMLY_URL); without one, a stack is started here.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON, for programs.")]


def read_settings(url: str | None = None, api_key: str | None = None) -> "Settings":
    """The environment's settings, with what the command itself was told in their place."""
    from pydantic import SecretStr, ValidationError

    from contract.wording import settings_wording
    from seemly.settings import Settings

    try:
        settings = Settings()
    except ValidationError as error:
        told = f"the environment holds settings that cannot be used: {settings_wording(error)}"
        raise Unusable(where=told) from None
    own = {"url": url, "api_key": None if api_key is None else SecretStr(api_key)}
    return settings.model_copy(update={name: value for name, value in own.items() if value is not None})


def request_of(kind: "type[Request]", **values: Any) -> "Request":
    """A request made of a command's options.

    Raises:
        Unusable: naming the options.
    """
    from pydantic import ValidationError

    try:
        return kind(**values)
    except ValidationError as error:
        raise unusable(error) from None


def unusable(error: "ValidationError", where: str = "") -> Unusable:
    """What pydantic refused, in our words."""
    return Unusable(*_named(error), where=where)


def _named(error: Any) -> Iterator[FieldError]:
    from contract.wording import wording

    for entry in error.errors():
        location = entry["loc"]
        if (depth := {"safety": 1, "plans": 2}.get(location[0] if location else "")) is not None:
            location = location[:depth]  # below, pydantic also names which of a plan's forms was tried
        yield FieldError(".".join(map(str, location)), wording(entry))


@contextmanager
def running(settings: "Settings", console: "Console") -> Iterator[str]:
    """The address of the service asked for, or of a stack on any port that runs as long as it is needed."""
    if settings.url is not None:
        yield settings.url
        return
    from seemly.embedded import EmbeddedStack

    stack = EmbeddedStack(settings.model_copy(update={"port": 0}))
    with console.status("Starting Redis, gateway and worker"):
        stack.start()
    try:
        yield stack.url
    finally:
        with console.status("Stopping"):
            stack.stop()


@contextmanager
def connected(settings: "Settings", console: "Console") -> Iterator["Client"]:
    """A client of that service."""
    from seemly.client import Client

    with running(settings, console) as address, Client(address, api_key=api_key_of(settings)) as client:
        yield client


def api_key_of(settings: "Settings") -> str | None:
    """The key that the service is shown."""
    return settings.api_key.get_secret_value() if settings.api_key else None
