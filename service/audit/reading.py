"""Entries of a tenant's audit, in the order in which they were put there."""

import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self, TypeVar

from pydantic import BaseModel
from redis.asyncio import Redis

from contract import keys
from contract.audit import ENTRY, Entry, Verdicts, words_of
from contract.chain import APPEND

log = logging.getLogger(__name__)

Said = TypeVar("Said", bound=BaseModel)

READ_AT_ONCE = 200
_HASHED = ("sha256", "link", "body")


@dataclass(frozen=True)
class Link:
    """One entry as it hangs in the chain; `body` word for word."""

    sequence: int
    sha256: str
    link: str
    body: str

    @classmethod
    def from_fields(cls, fields: dict[str, str]) -> Self:
        """An entry of the stream; of one that lost a field, what is left."""
        sequence = fields.get("sequence", "")
        return cls(int(sequence) if sequence.isdigit() else 0, *(fields.get(name, "") for name in _HASHED))

    @property
    def has_verdicts(self) -> bool:
        """Whether it tells of a job's verdicts, without reading it: within a text of JSON, quotes are escaped."""
        return '"kind":"verdicts"' in self.body

    @property
    def entry(self) -> Entry:
        """What the entry says.

        Raises:
            ValueError: it says nothing that is known here.
        """
        return ENTRY.validate_json(self.body)


class Audit:
    """Reads audits, and adds to them. `redis` decodes its answers."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._append = redis.register_script(APPEND)

    async def tenants(self) -> list[str]:
        """Everyone of whom something is on record."""
        found: Any = await self._redis.smembers(keys.AUDITED)
        return sorted(found)

    async def append(self, *entries: Entry) -> None:
        """Put entries on record, in this order."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for entry in entries:
                await self._append(args=[entry.tenant, *words_of(entry)], client=pipe)
            await pipe.execute()

    async def head(self, tenant: str) -> tuple[int, str] | None:
        """Sequence and link of the last entry; None when there is none."""
        found: Any = await self._redis.hmget(keys.audit_head_key(tenant), ["sequence", "link"])
        sequence, link = found
        return (int(sequence), link) if sequence and link else None

    async def links(
        self, tenant: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[Link]:
        """Entries put on record from one moment on, and before another."""
        start = "-" if since is None else f"{_milliseconds(since)}-0"
        end = "+" if until is None else str(max(0, _milliseconds(until) - 1))  # with all that was put there then
        while True:
            entries: Any = await self._redis.xrange(keys.audit_key(tenant), start, end, count=READ_AT_ONCE)
            for entry_id, fields in entries:
                yield Link.from_fields(fields)
                start = f"({entry_id}"
            if len(entries) < READ_AT_ONCE:
                return

    async def entries(
        self, tenant: str, kind: type[Said], since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[Said]:
        """Those of one kind among them. What cannot be read is passed over; `seemly audit verify` tells why."""
        async for link in self.links(tenant, since, until):
            try:
                entry = link.entry
            except ValueError:
                log.error("entry %d of the audit of %s cannot be read", link.sequence, tenant)
                continue
            if isinstance(entry, kind):
                yield entry

    def verdicts(
        self, tenant: str, since: datetime | None = None, until: datetime | None = None
    ) -> AsyncIterator[Verdicts]:
        """The verdicts among them."""
        return self.entries(tenant, Verdicts, since, until)


def _milliseconds(moment: datetime) -> int:
    """Since 1970, before which a stream knows no time."""
    return max(0, int(moment.timestamp() * 1000))
