"""`seemly policies`: which policy holds for whom, in REDIS_URL's Redis or in that of the embedded stack."""

import asyncio
import json
import re
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer
import yaml  # type: ignore[import-untyped]
from redis.asyncio import Redis
from rich.table import Table

from contract.policy import Assignment, Policy, field_of
from contract.replay import Replay
from seemly.commands.asking import AsJson, read_settings
from seemly.commands.terminal import told, write_json
from seemly.errors import SeemlyError
from seemly.keys import deployment, duration
from service.audit.reading import Audit
from service.policies import Policies
from service.policy import load_policy
from service.problems import Refusal
from service.replaying import Window, replay
from service.settings import Settings
from service.silence import Silence

Answer = TypeVar("Answer")

app = typer.Typer(help="Policies of a service.", no_args_is_help=True, pretty_exceptions_enable=False)


class Mode(StrEnum):
    """What a policy does to a tenant's pictures."""

    ENFORCE = "enforce"
    SHADOW = "shadow"


Name = Annotated[str, typer.Argument(metavar="ID[@VERSION]", help="Without a version, the newest.")]
File = Annotated[str, typer.Argument(metavar="FILE", help="A policy in YAML, or a shipped one's name.")]
Tenant = Annotated[str, typer.Argument(help="Whose requests; * are all tenants without a policy of their own.")]


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """Show every version of every policy, and who is under which."""
    with told(as_json) as console:
        known, assigned = _ask(_everything)
        if as_json:
            write_json(
                {
                    "policies": [
                        policy.model_dump(mode="json", include={"id", "version", "description"}) for policy in known
                    ],
                    "assignments": {tenant: one.model_dump(mode="json") for tenant, one in assigned.items()},
                }
            )
            return
        table = Table("policy", "enforced for", "watched for", "description")
        for policy in known:
            enforced = [tenant for tenant, one in assigned.items() if one.enforce == policy.ref]
            watched = [tenant for tenant, one in assigned.items() if one.shadow == policy.ref]
            table.add_row(field_of(policy.ref), " ".join(enforced), " ".join(watched), policy.description)
        console.print(table)


@app.command()
def show(name: Name) -> None:
    """Write a policy as YAML, ready to be changed and added as its next version."""
    with told():
        policy = _ask(lambda policies, _: policies.find(*_parts(name)))
        written = policy.model_dump(mode="json", exclude_defaults=True)
        sys.stdout.write(yaml.safe_dump(written, sort_keys=False, allow_unicode=True))


@app.command()
def check(file: File) -> None:
    """Tell what is wrong with a policy; nothing is asked of a service."""
    with told() as console:
        policy = _read(file)
        console.print(f"{field_of(policy.ref)} can be added.")


@app.command()
def add(file: File) -> None:
    """Add a policy, or its next version. Nobody is under it yet."""
    with told() as console:
        policy = _read(file)
        is_new = _ask(lambda policies, _: policies.add(policy))
        console.print(f"{field_of(policy.ref)} {'is added' if is_new else 'was there already'}.")


@app.command()
def assign(
    tenant: Tenant,
    name: Name,
    mode: Annotated[Mode, typer.Option(help="shadow: watched beside the one that is enforced.")] = Mode.ENFORCE,
) -> None:
    """Put a tenant under a policy, or let one be watched. What is enforced holds for old results as well."""

    async def put(policies: Policies, _: Audit) -> Assignment:
        ref = (await policies.find(*_parts(name))).ref
        before = await policies.assigned(tenant)
        shadow = ref if mode is Mode.SHADOW else (before.shadow if before.shadow != ref else None)
        after = Assignment(enforce=before.enforce if mode is Mode.SHADOW else ref, shadow=shadow)
        await policies.assign(tenant, after)
        return after

    with told() as console:
        after = _ask(put)
        watched = f", {field_of(after.shadow)} is watched" if after.shadow else ""
        console.print(f"{tenant} is under {field_of(after.enforce)}{watched}.")


@app.command(name="replay")
def replay_(
    name: Annotated[str, typer.Argument(metavar="ID[@VERSION]|FILE", help="A policy that is there, or a YAML file.")],
    tenant: Annotated[str, typer.Argument(help="Whose pictures.")],
    last: Annotated[timedelta, typer.Option(parser=duration, metavar="DURATION", help="How far back.")] = "7d",  # type: ignore[assignment]  # read by the parser
    jobs: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, oldest first.")] = 10_000,
    as_json: AsJson = False,
) -> None:
    """Tell what a policy would have decided over the pictures on record. Nothing is changed."""

    async def ask(policies: Policies, audit: Audit) -> Replay:
        policy = given or await policies.find(*_parts(name))
        window = Window(tenant=tenant, jobs=jobs)
        return await replay(audit, policies.above_floor(policy), window, datetime.now(UTC) - last)

    with told(as_json) as console:
        given = _read(name) if Path(name).is_file() else None
        found = _ask(ask)
        if as_json:
            write_json(json.loads(found.model_dump_json()))
            return
        console.print(f"{field_of(found.policy)} over {found.pictures} pictures of {found.jobs} jobs of {tenant}:")
        verdicts = Table("verdict", "on record", "would have been")
        for verdict in sorted(found.before.keys() | found.after.keys()):
            verdicts.add_row(verdict, str(found.before.get(verdict, 0)), str(found.after.get(verdict, 0)))
        console.print(verdicts)
        concepts = Table("concept", "found", "would have been", "for example")
        for concept in found.concepts:
            examples = " ".join(f"{one.job}/{one.index}" for one in concept.examples[:1])
            concepts.add_row(concept.name, str(concept.before), str(concept.after), examples)
        console.print(concepts)
        if found.prompts_unknown:
            why = "their prompts are not on record, or were not scored for its concepts"
            console.print(f"Of {found.prompts_unknown} of these jobs not all prompt rules could be asked: {why}.")


async def _everything(policies: Policies, _: Audit) -> tuple[list[Policy], dict[str, Assignment]]:
    assigned = await policies.assignments()
    return await policies.all(), assigned


def _parts(name: str) -> tuple[str, int | None]:
    found = re.fullmatch(r"([a-z0-9-]+)(?:@(\d{1,6}))?", name)
    if found is None:
        raise SeemlyError(f"{name!r} is no policy; write one as ID or ID@VERSION")
    return found[1], int(found[2]) if found[2] else None


def _read(file: str) -> Policy:
    try:
        return load_policy(file)
    except (OSError, ValueError) as error:
        raise SeemlyError(str(error)) from None


def _ask(action: Callable[[Policies, Audit], Awaitable[Answer]]) -> Answer:
    own = _read(read_settings().policy)
    with deployment() as at:

        async def ask() -> Answer:
            async with Redis.from_url(at.redis_url, decode_responses=True, socket_timeout=5, protocol=2) as redis:
                return await action(Policies(redis, Silence(), own, Settings().floor), Audit(redis))

        try:
            return asyncio.run(ask())
        except Refusal as refusal:
            told = "; ".join(f"{error.field} {error.message}" for error in refusal.errors)
            raise SeemlyError(f"{refusal.detail} {told}".strip()) from None
