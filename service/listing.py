"""A tenant's jobs, newest first, page by page."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from redis.asyncio import Redis

from contract import keys
from contract.listing import JobPage, JobSummary
from contract.result import Status
from service.jobs import JobRecord, is_no_hash
from service.policies import Policies
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

    def holds(self, record: JobRecord) -> bool:
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
    def from_cursor(cls, cursor: str) -> "Place":
        """Read a cursor.

        Raises:
            InvalidRequest: when it is none.
        """
        try:
            accepted_at, job_id = base64.b64decode(cursor, altchars=b"-_", validate=True).decode().split(" ")
            return cls(float(accepted_at), job_id)
        except (binascii.Error, ValueError):
            raise InvalidRequest(
                FieldError(field="cursor", message="is none of this service's; take `next_cursor` of a page")
            ) from None


class Listing:
    """Reads lists of jobs."""

    def __init__(self, redis: "Redis", silence: Silence, policies: Policies) -> None:
        self._redis = redis
        self._silence = silence
        self._policies = policies

    async def page(self, tenant: str, wanted: Wanted, limit: int, after: Place | None) -> JobPage:
        """At most `limit` jobs from a place on. Ids whose records are gone, or cannot be read, are passed over."""
        found: list[JobSummary] = []
        floor = (await self._policies.in_force(tenant)).floor
        for _ in range(LOOKED_AT_MOST // READ_AT_ONCE):
            places = await self._places(keys.tenant_jobs_key(tenant), wanted.since, after)
            for place, fields in zip(places, await self._records(places), strict=True):
                after = place
                if (record := JobRecord.read(fields, floor)) and wanted.holds(record):
                    found.append(_summary(record))
                if len(found) == limit:
                    return JobPage(jobs=tuple(found), next_cursor=after.cursor() if after else None)
            if len(places) < READ_AT_ONCE:
                return JobPage(jobs=tuple(found), next_cursor=None)
        return JobPage(jobs=tuple(found), next_cursor=after.cursor() if after else None)

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


def _summary(record: JobRecord) -> JobSummary:
    view = record.view
    return JobSummary(
        id=view.id,
        url=f"/jobs/{view.id}",
        status=view.status,
        model=record.job.model,
        pictures=len(record.job.seeds),
        created_at=view.created_at,
        started_at=view.started_at,
        finished_at=view.finished_at,
    )
