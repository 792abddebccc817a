"""Replay of a policy over the audit: read here, judged in a thread, since a long window keeps a core busy."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Annotated

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from contract.audit import Verdicts
from contract.policy import InForce
from contract.replay import Replay, replayed
from contract.strict import Number, Strict
from service.api_keys import TenantName
from service.audit.reading import Audit, Link


class Window(Strict):
    """Over what a policy is replayed."""

    tenant: TenantName = Field(description="Whose pictures.", examples=["someone"])
    jobs: Annotated[int, Field(ge=1, le=10_000), Number] = Field(1000, description="At most so many, oldest first.")
    examples: Annotated[int, Field(ge=0, le=20), Number] = Field(5, description="Pictures named for each change.")


async def replay(
    audit: Audit, in_force: InForce, window: Window, since: datetime | None = None, until: datetime | None = None
) -> Replay:
    """What a policy would have decided over a window of a tenant's audit."""
    links: list[Link] = []
    is_complete = True
    async for link in audit.links(window.tenant, since, until):
        if not link.has_verdicts:
            continue
        if len(links) == window.jobs:
            is_complete = False
            break
        links.append(link)

    def judge() -> Replay:
        return replayed(_verdicts(links), window.tenant, in_force, window.examples, is_complete=is_complete)

    return await run_in_threadpool(judge)


def _verdicts(links: Iterable[Link]) -> Iterator[Verdicts]:
    """What cannot be read is passed over; `seemly audit verify` tells of it."""
    for link in links:
        with suppress(ValueError):
            entry = link.entry
            if isinstance(entry, Verdicts):
                yield entry
