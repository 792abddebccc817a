"""What a tenant may use: requests in a time, unfinished jobs, their cost, and what is refused to one end user.

Requests are counted here, over a sliding window, before a route runs. The others are looked at where a job is accepted,
in its one script (`contract.acceptance`); unfinished jobs count until they end, in whichever way.
"""

import math
import time

from limits import RateLimitItem, parse
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.exceptions import RedisError

from contract import keys
from service.problems import TooManyRequests
from service.silence import Silence
from service.tenants import UNLIMITED, TenantLimits

READ_EVERY_S = 5.0


class Limits:
    """Every tenant's limits, and the count of requests."""

    def __init__(self, redis: "Redis", silence: Silence, defaults: TenantLimits) -> None:
        self._redis = redis
        self._silence = silence
        self._defaults = defaults
        self._known: dict[str, tuple[float, TenantLimits]] = {}
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix=f"{keys.PREFIX}rate",
            connection_pool=redis.connection_pool,  # type: ignore[arg-type]
        )
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def of(self, tenant: str) -> TenantLimits:
        """A tenant's limits, a few seconds old at most."""
        read_at, known = self._known.get(tenant, (-READ_EVERY_S, self._defaults))
        if time.monotonic() - read_at < READ_EVERY_S:
            return known
        async with self._silence.noticed_in_turn():
            own = await self._redis.hget(keys.TENANTS, tenant)
        changes = TenantLimits.model_validate_json(own or "{}").model_dump(exclude_unset=True)
        limits = self._defaults.model_copy(update=changes)
        self._known[tenant] = time.monotonic(), limits
        return limits

    async def count(self, tenant: str, limits: TenantLimits) -> dict[str, str]:
        """Count a request. The `RateLimit` headers of its answer (draft-ietf-httpapi-ratelimit-headers).

        Raises:
            TooManyRequests: when it is one too many; it then does not count.
        """
        if limits.requests is None:
            return {}
        rate = parse(limits.requests)
        async with self._silence.noticed_in_turn():
            is_within = await self._limiter.hit(rate, tenant)
            reset_at, remaining = await self._limiter.get_window_stats(rate, tenant)
        headers = _headers(rate, remaining if is_within else 0, reset_at - time.time())
        if not is_within:
            raise TooManyRequests(f"More than {limits.requests}; slow down.", reset_at - time.time(), headers)
        return headers


def _headers(rate: RateLimitItem, remaining: int, reset_s: float) -> dict[str, str]:
    return {
        "RateLimit-Policy": f'"requests";q={rate.amount};w={rate.get_expiry()}',
        "RateLimit": f'"requests";r={remaining};t={max(1, math.ceil(reset_s))}',
    }


async def limits_of(limits: Limits, tenant: str) -> tuple[TenantLimits, dict[str, str]]:
    """A tenant's limits after one more request, and the headers to tell; none of either while Redis is away.

    What is served then needs no Redis, so that there is nothing to guard.
    """
    try:
        own = await limits.of(tenant)
        return own, await limits.count(tenant, own)
    except RedisError:
        return UNLIMITED, {}
