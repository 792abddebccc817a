"""Deliveries as a tenant sees them, and sends them again."""

import re
import time
from typing import Any

from redis.asyncio import Redis

from contract import keys
from contract.outbox import KEEP_DEAD_S, DeliveryState
from contract.webhook import Delivery, DeliveryPage
from service.listing import LOOKED_AT_MOST, READ_AT_ONCE, Place, places_of
from service.problems import DeliveryNotFound
from service.silence import Silence
from service.webhooks.outbox import Outbox, delivery_of

_ID = re.compile(r"msg_[0-9a-f]{32}(-\d{1,3})?")


class Deliveries:
    """Reads deliveries, and makes them due again. `redis` decodes its answers."""

    def __init__(self, redis: "Redis", silence: Silence) -> None:
        self._redis = redis
        self._silence = silence
        self._outbox = Outbox(redis)

    async def page(
        self, tenant: str, states: frozenset[DeliveryState], limit: int = 20, after: Place | None = None
    ) -> DeliveryPage:
        """At most `limit` deliveries in these states (none: in any) from a place on."""
        found: list[Delivery] = []
        for _ in range(LOOKED_AT_MOST // READ_AT_ONCE):
            async with self._silence.noticed_in_turn():
                places = await places_of(self._redis, keys.tenant_deliveries_key(tenant), None, after)
            for place, fields in zip(places, await self._read(*(place.job_id for place in places)), strict=True):
                after = place
                if fields and (not states or fields["state"] in states):
                    found.append(delivery_of(fields))
                if len(found) == limit:
                    return DeliveryPage(deliveries=tuple(found), next_cursor=after.cursor())
            if len(places) < READ_AT_ONCE:
                return DeliveryPage(deliveries=tuple(found), next_cursor=None)
        return DeliveryPage(deliveries=tuple(found), next_cursor=after.cursor() if after else None)

    async def one(self, delivery_id: str, tenant: str) -> Delivery:
        """A delivery of this tenant's.

        Raises:
            DeliveryNotFound: also for another tenant's.
        """
        [fields] = await self._read(delivery_id) if _ID.fullmatch(delivery_id) else [{}]
        if not fields or fields["tenant"] != tenant:
            raise DeliveryNotFound(
                "There is no such delivery. Ids come from GET /webhooks/deliveries; they are kept for some days."
            )
        return delivery_of(fields)

    async def replay(self, delivery_id: str, tenant: str) -> Delivery:
        """Make a delivery due now, whatever became of it; it keeps its id and gets all its attempts again.

        Raises:
            DeliveryNotFound: also for another tenant's.
        """
        await self.one(delivery_id, tenant)
        async with self._silence.noticed_in_turn():
            await self._outbox.replay(delivery_id, tenant, time.time())
        return await self.one(delivery_id, tenant)

    async def counts(self) -> tuple[int, int]:
        """How many deliveries of all tenants are pending, and how many were given up."""
        async with self._silence.noticed_in_turn():
            tenants: Any = await self._redis.smembers(keys.DELIVERING_TENANTS)
            async with self._redis.pipeline(transaction=False) as pipe:
                pipe.zcount(keys.DEAD_DELIVERIES, time.time() - KEEP_DEAD_S, "+inf")
                for tenant in tenants:
                    pipe.zcard(keys.due_deliveries_key(tenant))
                dead, *pending = await pipe.execute()
        return sum(pending), dead

    async def _read(self, *delivery_ids: str) -> list[dict[str, str]]:
        async with self._silence.noticed_in_turn(), self._redis.pipeline(transaction=False) as pipe:
            for delivery_id in delivery_ids:
                pipe.hgetall(keys.delivery_key(delivery_id))
            return list(await pipe.execute())
