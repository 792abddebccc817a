"""`seemly audit`: what is on record of a tenant's pictures, exported, checked, and deleted when its time is over.

The service is that of `seemly keys`: REDIS_URL's Redis, or that of the embedded stack, whether it runs or not.
"""

import asyncio
import csv
import sys
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from redis.asyncio import Redis

from contract.audit import Decision
from contract.chain import CUT
from contract.keys import API_KEYS, SIGNING_SECRETS
from seemly.commands.asking import AsJson
from seemly.commands.terminal import told, write_json
from seemly.errors import FieldError, SeemlyError, Unusable
from seemly.keys import Deployment, deployment, duration
from service.api_keys import Pepper
from service.audit.checking import Check
from service.audit.exports import check_export, head_of, line_of
from service.audit.heads import PURPOSE, Head, SignedHead
from service.audit.labels import Label, labels_of
from service.audit.reading import Audit

Answer = TypeVar("Answer")

app = typer.Typer(help="The audit of a service's pictures.", no_args_is_help=True, pretty_exceptions_enable=False)

TenantOption = Annotated[
    str, typer.Option("--tenant", help="Whose audit. Without API keys it is local.", show_default=False)
]
HeadOption = Annotated[
    list[Path] | None,
    typer.Option("--head", help="An earlier export, or head, that was kept elsewhere; may be repeated."),
]


@app.command()
def export(
    tenant: TenantOption,
    out: Annotated[Path | None, typer.Option(help="The file; stdout when left out.")] = None,
) -> None:
    """Write a tenant's audit as JSON Lines, its signed head last."""
    with told(as_json=True) as console, deployment() as at:
        with out.open("x", encoding="utf-8") if out else nullcontext(sys.stdout) as file:

            async def write(audit: Audit) -> int:
                last: tuple[int, str] | None = None
                async for one in audit.links(tenant):
                    file.write(f"{line_of(one)}\n")
                    last = one.sequence, one.link
                file.write(f"{SignedHead.of(tenant, last, _key(at)).model_dump_json()}\n")
                return last[0] if last else 0

            sequence = _ask(at, write)
        if out:
            console.print(f"Wrote the audit of {tenant} up to entry {sequence}.")


@app.command()
def head(tenant: TenantOption) -> None:
    """Write the signed head of a tenant's audit: kept elsewhere, it shows later whether entries were cut off."""
    with told(as_json=True), deployment() as at:
        signed = SignedHead.of(tenant, _ask(at, lambda audit: audit.head(tenant)), _key(at))
        sys.stdout.write(f"{signed.model_dump_json()}\n")


@app.command()
def verify(
    file: Annotated[Path | None, typer.Argument(help="An export; what is on record now when left out.")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose audit, without a file. Default: all.")] = None,
    heads: HeadOption = None,
    as_json: AsJson = False,
) -> None:
    """Go through a chain from its first entry to its last; the exit code is 0 only when nothing is wrong with it."""
    with told(as_json) as console, deployment() as at:
        kept = [_read(path, lambda lines: head_of(lines, _key(at))) for path in heads or ()]
        if file is not None:
            if tenant is not None:
                raise Unusable(FieldError("--tenant", "the export says whose it is; leave this out"))
            checks = [_read(file, lambda lines: check_export(lines, _key(at), kept))]
        else:
            checks = _ask(at, lambda audit: _checked(audit, tenant, kept))
        for check in checks:
            if unfit := [one.tenant for one in kept if one.tenant != check.tenant and (file or tenant)]:
                raise Unusable(FieldError("--head", f"is of {unfit[0]}, not of {check.tenant}"))
        if as_json:
            write_json([_as_json(check) for check in checks])
        for check in () if as_json else checks:
            console.print(_said(check), soft_wrap=True, markup=False)
        if any(check.fault for check in checks):
            raise SeemlyError("the audit was changed")


@app.command()
def labels(
    tenant: TenantOption,
    out: Annotated[Path | None, typer.Option(help="The file, CSV when it ends in .csv; stdout when left out.")] = None,
) -> None:
    """Write what people said of withheld pictures beside the scores, as JSON Lines or CSV, for `seemly calibrate`."""
    with told(as_json=True) as console, deployment() as at:
        found = _ask(at, lambda audit: _labels(audit, tenant))
        with out.open("x", encoding="utf-8", newline="") if out else nullcontext(sys.stdout) as file:
            if out and out.suffix == ".csv":
                rows = csv.DictWriter(file, list(Label.model_fields))
                rows.writeheader()
                rows.writerows(one.model_dump(mode="json") for one in found)
            else:
                file.writelines(f"{one.model_dump_json()}\n" for one in found)
        if out:
            console.print(f"Wrote {len(found)} labels of {tenant}.")


async def _labels(audit: Audit, tenant: str) -> list[Label]:
    return [label async for entry in audit.entries(tenant, Decision) for label in labels_of(entry)]


@app.command()
def cut(
    tenant: TenantOption,
    older_than: Annotated[
        timedelta, typer.Option(parser=duration, metavar="DURATION", help="As 90d: what is older goes.")
    ],
    as_json: AsJson = False,
) -> None:
    """Delete old entries. A new entry says which, under the link that stands for all of them."""
    with told(as_json) as console, deployment() as at:
        now = datetime.now(UTC)
        before_ms = int((now - older_than).timestamp() * 1000)
        link: Any = at.redis.register_script(CUT)(args=[tenant, before_ms, now.isoformat()])
        if as_json:
            write_json({"tenant": tenant, "link": link.decode() if link else None})
        else:
            console.print(f"Deleted what hung on {link.decode()}." if link else "Nothing is that old.", soft_wrap=True)


async def _checked(audit: Audit, tenant: str | None, heads: Iterable[Head]) -> list[Check]:
    checks = []
    for one in [tenant] if tenant is not None else await audit.tenants():
        check = Check(one, tuple(head for head in heads if head.tenant == one))
        before = await audit.head(one)
        async for link in audit.links(one):
            check.take(link)
            if before and link.sequence == before[0]:  # entries are still being added
                break
        check.end(before)
        checks.append(check)
    return checks


def _said(check: Check) -> str:
    span = f"entries {check.first.sequence} to {check.last.sequence}" if check.first and check.last else "nothing"
    if check.fault:
        return f"{check.tenant or 'of whom it does not say'}: WRONG: {check.fault}"
    gone = check.deleted
    went = f"; {gone.first} to {gone.last} were deleted on {gone.at:%Y-%m-%d} under {gone.link}" if gone else ""
    return f"{check.tenant}: {span}, unbroken{went}"


def _as_json(check: Check) -> dict[str, Any]:
    return {
        "tenant": check.tenant,
        "first": check.first.sequence if check.first else None,
        "last": check.last.sequence if check.last else None,
        "deleted": check.deleted.model_dump(mode="json") if check.deleted else None,
        "fault": check.fault,
    }


def _read(path: Path, read: Callable[[Iterable[str]], Answer]) -> Answer:
    """Read a file of ours.

    Raises:
        SeemlyError: it is none.
    """
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            return read(lines)
    except ValueError as error:
        raise SeemlyError(f"{path} is no export of an audit: {error}") from None


def _key(at: Deployment) -> bytes:
    is_in_use = bool(at.redis.exists(API_KEYS, SIGNING_SECRETS))
    return Pepper.read_or_make(at.pepper, at.pepper_file, is_in_use=is_in_use).derived(PURPOSE)


def _ask(at: Deployment, action: Callable[[Audit], Awaitable[Answer]]) -> Answer:
    async def ask() -> Answer:
        # A byte that was changed may be no UTF-8 any more: that is to be told, not stumbled over.
        client = Redis.from_url(
            at.redis_url, decode_responses=True, encoding_errors="replace", socket_timeout=5, protocol=2
        )
        async with client as redis:
            return await action(Audit(redis))

    return asyncio.run(ask())
