"""`seemly webhooks`: signing secrets, what became of deliveries, and the process that delivers.

The service is that of `seemly keys`: REDIS_URL's Redis, or that of the embedded stack, whether it runs or not.
"""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

import typer
from redis.asyncio import Redis
from rich.console import Console
from rich.table import Column, Table

from contract.outbox import DeliveryState
from contract.webhook import Delivery
from seemly.commands.asking import AsJson
from seemly.commands.terminal import told, write_json
from seemly.errors import FieldError, SeemlyError, Unusable
from seemly.keys import day, deployment, duration
from service.listing import Place
from service.problems import DeliveryNotFound
from service.silence import Silence
from service.webhooks.deliveries import Deliveries
from service.webhooks.signing import SecretRing, SigningSecret

Answer = TypeVar("Answer")

app = typer.Typer(help="Webhooks of a service.", no_args_is_help=True, pretty_exceptions_enable=False)
secret = typer.Typer(help="Secrets that a tenant's webhooks are signed with.", no_args_is_help=True)
app.add_typer(secret, name="secret")

Tenant = Annotated[str, typer.Argument(help="Whose webhooks: small letters, digits, -. Without API keys it is local.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="Whose webhooks.", show_default=False)]


@app.command()
def deliver() -> None:
    """Deliver webhooks until told to stop; its settings come from the environment. Several may run."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "service.webhooks.main"])  # noqa: S606 - this very interpreter


@secret.command()
def create(tenant: Tenant, as_json: AsJson = False) -> None:
    """Make a tenant's signing secret; without one its requests cannot name webhooks."""
    with told(as_json) as console, deployment() as at:
        whsec, made = SecretRing(at.redis, at.pepper, at.pepper_file).create(tenant)
        _show(console, [(whsec, made)], as_json)


@secret.command()
def show(tenant: Tenant, as_json: AsJson = False) -> None:
    """Show the secrets that a tenant's webhooks are signed with now."""
    with told(as_json) as console, deployment() as at:
        _show(console, SecretRing(at.redis, at.pepper, at.pepper_file).shown(tenant), as_json)


@secret.command()
def rotate(
    tenant: Tenant,
    overlap: Annotated[
        timedelta, typer.Option(parser=duration, metavar="DURATION", help="How long the old secret signs as well.")
    ] = "24h",  # type: ignore[assignment]  # read by the parser
    as_json: AsJson = False,
) -> None:
    """Make another secret. For a while messages carry two signatures, so that receivers can change over."""
    with told(as_json) as console, deployment() as at:
        whsec, made = SecretRing(at.redis, at.pepper, at.pepper_file).rotate(tenant, overlap)
        _show(console, [(whsec, made)], as_json)


@secret.command(name="list")
def list_secrets(as_json: AsJson = False) -> None:
    """List all tenants' signing secrets, without showing them."""
    with told(as_json) as console, deployment() as at:
        kept = SecretRing(at.redis, at.pepper, at.pepper_file).all()
        if as_json:
            write_json([one.model_dump(mode="json") for one in kept])
            return
        table = Table("tenant", Column("id", no_wrap=True), "created", "ends", "state")
        for one in kept:
            state = "signs" if one.is_valid(datetime.now(UTC)) else "ended"
            table.add_row(one.tenant, one.id, day(one.created_at), day(one.ends_at), state)
        console.print(table)


@app.command(name="list")
def list_(
    tenant: TenantOption,
    state: Annotated[list[DeliveryState] | None, typer.Option(help="Only these; may be repeated.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, the newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List a tenant's webhooks; `--state dead` those that were given up."""
    with told(as_json) as console:
        found = _ask(lambda deliveries: _newest(deliveries, tenant, state or [], limit))
        if as_json:
            write_json([one.model_dump(mode="json") for one in found])
            return
        table = Table(Column("id", no_wrap=True), "event", "state", "attempts", "last", "next", "why")
        for one in found:
            times = day(one.last_attempt_at), day(one.next_attempt_at)
            table.add_row(one.id, one.type, one.state, str(one.attempts), *times, one.last_error or "")
        console.print(table)


@app.command()
def replay(
    tenant: TenantOption,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID…", help="As `seemly webhooks list` shows them.")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that were given up.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send webhooks again, under the ids that they had."""
    with told(as_json) as console:
        if bool(ids) == dead:
            raise Unusable(FieldError("ID", "name webhooks, or give --dead for all that were given up"))
        sent = _ask(lambda deliveries: _replayed(deliveries, tenant, ids or []))
        if as_json:
            write_json([one.model_dump(mode="json") for one in sent])
        else:
            console.print(f"{len(sent)} will be sent again.")


async def _newest(
    deliveries: Deliveries, tenant: str, states: list[DeliveryState], limit: int | None
) -> list[Delivery]:
    found: list[Delivery] = []
    after: Place | None = None
    while limit is None or len(found) < limit:
        page = await deliveries.page(tenant, frozenset(states), 100 if limit is None else limit - len(found), after)
        found += page.deliveries
        if page.next_cursor is None:
            break
        after = Place.from_cursor(page.next_cursor)
    return found


async def _replayed(deliveries: Deliveries, tenant: str, ids: list[str]) -> list[Delivery]:
    wanted = ids or [one.id for one in await _newest(deliveries, tenant, [DeliveryState.DEAD], None)]
    try:
        return [await deliveries.replay(delivery_id, tenant) for delivery_id in wanted]
    except DeliveryNotFound:
        raise SeemlyError(f"{tenant} has no such webhook; `seemly webhooks list --tenant {tenant}` shows all") from None


def _ask(action: Callable[[Deliveries], Awaitable[Answer]]) -> Answer:
    async def ask(url: str) -> Answer:
        async with Redis.from_url(url, decode_responses=True, socket_timeout=5, protocol=2) as redis:
            return await action(Deliveries(redis, Silence()))

    with deployment() as at:
        return asyncio.run(ask(at.redis_url))


def _show(console: Console, found: list[tuple[str, SigningSecret]], as_json: bool) -> None:
    if as_json:
        shown: list[dict[str, Any]] = [{"secret": whsec, **one.model_dump(mode="json")} for whsec, one in found]
        write_json(shown)
        return
    for whsec, one in found:
        until = f", until {day(one.ends_at)}" if one.ends_at else ""
        console.print(f"Signing secret {one.id} of {one.tenant}{until}:", soft_wrap=True)
        console.print(whsec, soft_wrap=True, markup=False)
