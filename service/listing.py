"""A tenant's jobs, newest first, page by page."""

import base64
import binascii
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic

from redis.asyncio import Redis

from contract import keys
from contract.result import Status
from service.kept import KeptRecord, ReadingFor, SomeRecord, is_no_hash
from service.problems import FieldError, InvalidRequest
from service.silence import Silence

READ_AT_ONCE = 50
LOOKED_AT_MOST = 500  # ids per page; a page that found less than it may hold goes on with its cursor


@dataclass(frozen=True)
class Wanted:
    """Which jobs are listed."""

    statuses: frozenset[Status]  # empty: any
    model: str | None
    since: datetime | None

    def holds(self, record: KeptRecord[Any, Any]) -> bool:
        """Whether a job is one of them."""
        return (not self.statuses or record.view.status in self.statuses) and self.model in (None, record.job.model)


@dataclass(frozen=True)
class Place:
    """A job's place in the list: after it come those accepted before it."""

    accepted_at: float
    job_id: str

    def cursor(self) -> str:
        """The place, as a caller keeps it."""
        return base64.urlsafe_b64encode(f"{self.accepted_at!r} {self.job_id}".encode()).decode()

    @classmethod
    def from_cursor(cls, cursor: str | None) -> "Place | None":
        """Read a cursor; without one there is no place to begin after.

        Raises:
            InvalidRequest: when it is none.
        """
        if cursor is None:
            return None
        try:
            accepted_at, job_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().split(" ")
            if not math.isfinite(float(accepted_at)):
                raise ValueError
            return cls(float(accepted_at), job_id)
        except (binascii.Error, ValueError):
            raise InvalidRequest(
                FieldError(field="cursor", message="is none of this service's; take `next_cursor` of a page")
            ) from None


class Listing(Generic[SomeRecord]):
    """Reads lists of jobs of one kind."""

    def __init__(self, redis: "Redis", silence: Silence, kind: str, readings: ReadingFor[SomeRecord]) -> None:
        self._redis = redis
        self._silence = silence
        self._kind = kind
        self._readings = readings

    async def page(
        self, tenant: str, wanted: Wanted, limit: int, after: Place | None
    ) -> tuple[list[SomeRecord], str | None]:
        """At most `limit` jobs from a place on, and where the next page begins. Ids whose records are gone, or cannot
        be read, are passed over."""
        found: list[SomeRecord] = []
        reading = await self._readings(tenant)
        for _ in range(LOOKED_AT_MOST // READ_AT_ONCE):
            places = await self._places(keys.tenant_jobs_key(tenant, self._kind), wanted.since, after)
            for place, fields in zip(places, await self._records(places), strict=True):
                after = place
                if (record := reading(fields)) and wanted.holds(record):
                    found.append(record)
                if len(found) == limit:
                    return found, after.cursor()
            if len(places) < READ_AT_ONCE:
                return found, None
        return found, after.cursor() if after else None

    async def _places(self, key: str, since: datetime | None, after: Place | None) -> list[Place]:
        async with self._silence.noticed_in_turn():
            return await places_of(self._redis, key, since, after)

    async def _records(self, places: list[Place]) -> list[dict[str, str] | None]:
        async with self._silence.noticed_in_turn(), self._redis.pipeline(transaction=False) as pipe:
            for place in places:
                pipe.hgetall(keys.job_key(place.job_id))
            found = await pipe.execute(raise_on_error=False)
        for fields in found:
            if isinstance(fields, Exception) and not is_no_hash(fields):
                raise fields
        return [fields if isinstance(fields, dict) else None for fields in found]


async def places_of(redis: "Redis", key: str, since: datetime | None, after: Place | None) -> list[Place]:
    """The next READ_AT_ONCE places at most of a sorted set of ids by time, newest first."""
    newest = "+inf" if after is None else repr(after.accepted_at)
    oldest = "-inf" if since is None else repr(since.timestamp())
    taken = 0 if after is None else 16  # of jobs accepted in the same microsecond, as many may lie before the place
    entries: Any = await redis.zrevrangebyscore(key, newest, oldest, start=0, num=READ_AT_ONCE + taken, withscores=True)
    places = [Place(float(score), job_id) for job_id, score in entries]
    if after is not None:
        places = [place for place in places if (place.accepted_at, place.job_id) < (after.accepted_at, after.job_id)]
    return places[:READ_AT_ONCE]
