"""`seemly keys`: API keys, in REDIS_URL's Redis or in that of the embedded stack, whether it runs or not."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError
from rich.console import Console
from rich.table import Column, Table

from seemly.commands.asking import AsJson, read_settings
from seemly.commands.terminal import told, write_json
from seemly.embedded import EmbeddedStack
from seemly.errors import FieldError, SeemlyError, Unusable
from seemly.redis_process import RedisPlace
from service.api_keys import ApiKey, KeyRing, NoPepper, NoSuchKey, Scope
from service.webhooks.signing import NoSuchSecret

if TYPE_CHECKING:
    from seemly.settings import Settings

_UNITS_S = {"m": 60, "h": 3600, "d": 86_400}

app = typer.Typer(help="API keys of a service.", no_args_is_help=True, pretty_exceptions_enable=False)


def duration(text: str) -> timedelta:
    """`"90d"`, `"12h"`, `"30m"`, `"0"`."""
    found = re.fullmatch(r"(\d{1,5})([mhd])|0", text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write one as 30m, 12h or 90d")
    return timedelta(seconds=int(found[1]) * _UNITS_S[found[2]]) if found[1] else timedelta()


KeyId = Annotated[str, typer.Argument(metavar="ID", help="As `seemly keys list` shows it.")]


@app.command()
def create(
    tenant: Annotated[str, typer.Argument(help="Whose jobs and pictures the key reaches: small letters, digits, -.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What it may be used for; may be repeated. Default: generate. "
            "admin is for the whole deployment: policies and limits of every tenant."
        ),
    ] = None,
    label: Annotated[str, typer.Option(help="Any note, as in who holds it.")] = "",
    expires_in: Annotated[
        timedelta | None, typer.Option(parser=duration, metavar="DURATION", help="As 90d or 12h; never when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is shown once and kept nowhere."""
    with told(as_json) as console, key_ring() as ring:
        secret, key = ring.create(tenant, scope or [Scope.GENERATE], label, expires_in)
        _show(console, secret, key, as_json)


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """Show every key that was made, without its secret."""
    with told(as_json) as console, key_ring() as ring:
        if as_json:
            write_json([_told_of(key) for key in ring.all()])
            return
        table = Table(Column("id", no_wrap=True), "tenant", "scopes", "label", "created", "expires", "state")
        for key in ring.all():
            ends = key.revoked_at or key.expires_at
            table.add_row(
                key.id, key.tenant, " ".join(key.scopes), key.label, day(key.created_at), day(ends), key.state
            )
        console.print(table)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        timedelta, typer.Option(parser=duration, metavar="DURATION", help="How long the old key stays valid.")
    ] = "24h",  # type: ignore[assignment]  # read by the parser
    as_json: AsJson = False,
) -> None:
    """Make a key in the place of another, which stays valid for a while."""
    with told(as_json) as console, key_ring() as ring:
        secret, key = ring.rotate(key_id, overlap)
        _show(console, secret, key, as_json, replaces=key_id)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """End a key at once."""
    with told(as_json) as console, key_ring() as ring:
        key = ring.revoke(key_id)
        if as_json:
            write_json(_told_of(key))
        else:
            console.print(f"Revoked {key.id} of {key.tenant}.")


@app.command(name="limits")
def limits_(
    tenant: Annotated[str, typer.Argument(help="Whose limits.")],
    requests: Annotated[str | None, typer.Option(help="Requests in a time, as in 600/minute; or none.")] = None,
    jobs: Annotated[str | None, typer.Option(help="Unfinished jobs at once; or none.")] = None,
    cost: Annotated[str | None, typer.Option(help="Their pixels × steps × branches × pictures; or none.")] = None,
    refusals: Annotated[str | None, typer.Option(help="What is refused to one end user in an hour; or none.")] = None,
    webhooks: Annotated[str | None, typer.Option(help="Webhooks that could not be delivered yet; or none.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Take the service's defaults again.")] = False,
    as_json: AsJson = False,
) -> None:
    """Set a tenant's own limits, or show them. The service's defaults apply where it has none."""
    given = {"requests": requests, "jobs": jobs, "cost": cost, "refusals": refusals, "webhooks": webhooks}
    changes = {name: None if value == "none" else value for name, value in given.items() if value is not None}
    with told(as_json) as console, key_ring() as ring:
        limits = ring.limits(tenant, changes, reset=reset)
        if as_json:
            write_json({"tenant": tenant, "limits": limits.model_dump(exclude_unset=True) if limits else None})
        elif limits is None:
            console.print(f"{tenant} has the service's defaults.")
        else:
            for name, value in limits.model_dump(exclude_unset=True).items():
                console.print(f"{name}: {'none' if value is None else value}")


@dataclass(frozen=True)
class Deployment:
    """What administers a deployment: its Redis, and where its pepper is."""

    redis_url: str
    redis: Redis
    pepper: str | None
    pepper_file: Path


@contextmanager
def deployment() -> Iterator[Deployment]:
    """The service that the environment names; what goes wrong becomes the command line's errors."""
    settings = read_settings()
    pepper = settings.pepper.get_secret_value() if settings.pepper else None
    file = settings.pepper_file or settings.data.expanduser() / "pepper"
    try:
        with redis_of(settings) as url, Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2) as redis:
            yield Deployment(url, redis, pepper, file)
    except RedisError as error:
        raise SeemlyError(f"Redis does not serve ({type(error).__name__}): is REDIS_URL right?") from None
    except (NoPepper, NoSuchKey, NoSuchSecret) as error:
        raise SeemlyError(str(error)) from None
    except ValidationError as error:
        named = (FieldError(".".join(map(str, one["loc"])), one["msg"]) for one in error.errors())
        raise Unusable(*named) from None


@contextmanager
def key_ring() -> Iterator[KeyRing]:
    """The keys of the service that the environment names."""
    with deployment() as at:
        yield KeyRing(at.redis, at.pepper, at.pepper_file)


@contextmanager
def redis_of(settings: "Settings") -> Iterator[str]:
    """The address of REDIS_URL's Redis, of the running stack's, or of one that runs as long as it is needed."""
    place = RedisPlace.of(settings.data.expanduser().resolve())
    if settings.redis_url or place.is_up():
        yield settings.redis_url or place.url
        return
    stack = EmbeddedStack(settings)
    stack.start_redis()
    try:
        yield stack.redis_url
    finally:
        stack.stop()


def _show(console: Console, secret: str, key: ApiKey, as_json: bool, replaces: str | None = None) -> None:
    if as_json:
        write_json({"key": secret, **_told_of(key), **({"replaces": replaces} if replaces else {})})
        return
    console.print(f"Key {key.id} of {key.tenant} for {' '.join(key.scopes)}, shown this once:", soft_wrap=True)
    console.print(secret, soft_wrap=True, markup=False)


def _told_of(key: ApiKey) -> dict[str, Any]:
    return {**key.model_dump(mode="json", exclude={"hmac_sha256"}), "state": key.state}


def day(moment: datetime | None) -> str:
    """In UTC, to the minute; nothing for no time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if moment else ""
