"""Deliveries in Redis: taken, reported, sent again. Each is one script; the fields are those of `contract.outbox`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from contract import keys
from contract.outbox import KEEP_DEAD_S, KEEP_S, DeliveryState
from contract.webhook import Delivery, EventType

# KEYS = tenants; ARGV = now, end of the leases, most, most of a tenant, where to begin among the tenants, and what of
# each tenant's is being sent already, as JSON. Takes what is due, tenant by tenant in turn; what was damaged is
# passed over, so that it stops nothing else.
_CLAIM = f"""
local now, leased_until, most, most_of_one, first = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
local busy, tenants, claimed = cjson.decode(ARGV[6]), redis.call('SMEMBERS', KEYS[1]), {{}}

local function is_pending(delivery, id, tenant)
  if redis.call('TYPE', delivery)['ok'] ~= 'hash' then return false end
  local of = redis.call('HMGET', delivery, 'state', 'id', 'tenant')
  return of[1] == '{DeliveryState.PENDING}' and of[2] == id and of[3] == tenant
end

local function next_of(tenant)
  local due = '{keys.due_deliveries_key("' .. tenant .. '")}'
  while true do
    local id = redis.call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', 0, 1)[1]
    if not id then
      if redis.call('EXISTS', due) == 0 then redis.call('SREM', KEYS[1], tenant) end
      return
    end
    local delivery = '{keys.delivery_key("")}' .. id
    if is_pending(delivery, id, tenant) then
      redis.call('ZADD', due, leased_until, id)
      redis.call('HINCRBY', delivery, 'claim', 1)
      redis.call('HSETNX', delivery, 'first_at', now)
      return redis.call('HGETALL', delivery)
    end
    redis.call('ZREM', due, id)
  end
end

local is_any_left = #tenants > 0
while is_any_left and #claimed < most do
  is_any_left = false
  for i = 0, #tenants - 1 do
    local tenant = tenants[(i + first) % #tenants + 1]
    if #claimed < most and (busy[tenant] or 0) < most_of_one then
      local delivery = next_of(tenant)
      if delivery then
        busy[tenant] = (busy[tenant] or 0) + 1
        claimed[#claimed + 1], is_any_left = delivery, true
      end
    end
  end
end
return claimed
"""

# KEYS = delivery; ARGV = claim, new state, now, due, HTTP status, error. A failure counts only when the delivery was
# not taken by another meanwhile; an arrival always does. 1 when it counted.
_REPORT = f"""
local of = redis.call('HMGET', KEYS[1], 'id', 'tenant', 'state', 'claim')
local id, state, now = of[1], ARGV[2], ARGV[3]
if of[3] ~= '{DeliveryState.PENDING}' then return 0 end
if of[4] ~= ARGV[1] and state ~= '{DeliveryState.DELIVERED}' then return 0 end
local due = '{keys.due_deliveries_key("' .. of[2] .. '")}'
redis.call('HSET', KEYS[1], 'state', state, 'last_at', now, 'last_status', ARGV[5], 'last_error', ARGV[6])
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
if state == '{DeliveryState.PENDING}' then
  redis.call('HINCRBY', KEYS[1], 'failures', 1)
  redis.call('HSET', KEYS[1], 'due_at', ARGV[4])
  redis.call('ZADD', due, ARGV[4], id)
  return 1
end
redis.call('HDEL', KEYS[1], 'due_at')
redis.call('ZREM', due, id)
if state == '{DeliveryState.DEAD}' then
  redis.call('EXPIRE', KEYS[1], {KEEP_DEAD_S})
  redis.call('ZADD', '{keys.DEAD_DELIVERIES}', now, id)
  redis.call('ZREMRANGEBYSCORE', '{keys.DEAD_DELIVERIES}', '-inf', tonumber(now) - {KEEP_DEAD_S})
else
  redis.call('EXPIRE', KEYS[1], {KEEP_S})
end
return 1
"""

# KEYS = delivery; ARGV = now, tenant. Makes it due now, whatever became of it, with all its attempts before it again.
# 0 when there is none of this tenant's.
_REPLAY = f"""
local of = redis.call('HMGET', KEYS[1], 'id', 'tenant')
if not of[1] or of[2] ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[1], 'first_at', 'failures')
redis.call('HSET', KEYS[1], 'state', '{DeliveryState.PENDING}', 'due_at', ARGV[1])
redis.call('HINCRBY', KEYS[1], 'claim', 1)
redis.call('PERSIST', KEYS[1])
redis.call('ZREM', '{keys.DEAD_DELIVERIES}', of[1])
redis.call('ZADD', '{keys.due_deliveries_key("' .. of[2] .. '")}', ARGV[1], of[1])
redis.call('SADD', '{keys.DELIVERING_TENANTS}', of[2])
return 1
"""


def delivery_of(fields: Mapping[str, str]) -> Delivery:
    """A delivery as its hash tells of it."""
    return Delivery(
        id=fields["id"],
        job_id=fields["job"],
        type=EventType(fields["type"]),
        target=fields["target"],
        state=DeliveryState(fields["state"]),
        created_at=moment(fields["created_at"]),
        attempts=int(fields.get("attempts", 0)),
        last_attempt_at=moment(fields["last_at"]) if "last_at" in fields else None,
        last_status=int(status) if (status := fields.get("last_status")) else None,
        last_error=fields.get("last_error") or None,
        next_attempt_at=moment(fields["due_at"]) if "due_at" in fields else None,
    )


@dataclass(frozen=True)
class Claim:
    """A delivery that is this process's to send until the lease ends; `fields` are the hash's."""

    fields: Mapping[str, str]

    @property
    def id(self) -> str:
        """The message's id."""
        return self.fields["id"]

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.fields["tenant"]

    @property
    def failures(self) -> int:
        """How many attempts came to nothing."""
        return int(self.fields.get("failures", 0))

    @property
    def first_at(self) -> float:
        """When the first attempt was made, epoch seconds."""
        return float(self.fields["first_at"])


@dataclass(frozen=True)
class Report:
    """What one attempt came to, and what follows."""

    state: DeliveryState
    due_at: float = 0  # of the next attempt, epoch seconds
    status: int | None = None
    error: str | None = None


class Outbox:
    """The scripts, with their keys. `redis` decodes its answers."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis
        self._claim = redis.register_script(_CLAIM)
        self._report = redis.register_script(_REPORT)
        self._replay = redis.register_script(_REPLAY)

    async def claim(
        self, now: float, lease_s: float, most: int, most_of_one: int, busy_json: str, first: int
    ) -> list[Claim]:
        """Take at most so many deliveries that are due."""
        taken: list[Any] = await self._claim(
            keys=[keys.DELIVERING_TENANTS], args=[repr(now), repr(now + lease_s), most, most_of_one, first, busy_json]
        )
        return [Claim(dict(zip(flat[::2], flat[1::2], strict=True))) for flat in taken]

    async def report(self, claim: Claim, report: Report, now: float) -> bool:
        """Say what an attempt came to. Whether it counted."""
        args = [
            *(claim.fields["claim"], report.state.value, repr(now), repr(report.due_at)),
            *("" if report.status is None else report.status, report.error or ""),
        ]
        return bool(await self._report(keys=[keys.delivery_key(claim.id)], args=args))

    async def replay(self, delivery_id: str, tenant: str, now: float) -> bool:
        """Make a delivery due now. Whether there is such a one of this tenant's."""
        return bool(await self._replay(keys=[keys.delivery_key(delivery_id)], args=[repr(now), tenant]))

    async def signing_secrets(self, tenant: str) -> str | None:
        """A tenant's signing secrets, as they are kept."""
        kept: Any = await self._redis.hget(keys.SIGNING_SECRETS, tenant)
        return kept if isinstance(kept, str) else None


def moment(epoch_s: str) -> datetime:
    """A time as Redis holds it."""
    return datetime.fromtimestamp(float(epoch_s), UTC)
