"""What Redis must be set to, for an accepted job to stay there: it evicts nothing, and keeps an append-only file."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from redis import Redis

FRESH_S: Final = 1.0
OVERRIDE: Final = "; or, for trials, accept it with SEEMLY_ALLOW_UNSAFE_REDIS=true"


def unsafe_settings(memory: Mapping[str, Any], persistence: Mapping[str, Any]) -> tuple[str, ...]:
    """What is wrong with a Redis that tells this of itself (INFO memory, INFO persistence), each with what to do."""
    faults = []
    policy = memory.get("maxmemory_policy")
    if memory.get("maxmemory", 0) and policy != "noeviction":
        faults.append(f"Redis may evict jobs when it is full ({policy}): set its maxmemory-policy to noeviction")
    if not persistence.get("aof_enabled"):
        faults.append("Redis forgets accepted jobs when it ends: set its appendonly to yes")
    return tuple(faults)


@dataclass
class RedisSafety:
    """Asks one Redis, no more often than needed: it may come up after us, and another may take its place."""

    redis: Redis
    is_any_allowed: bool = False  # SEEMLY_ALLOW_UNSAFE_REDIS
    _faults: tuple[str, ...] = field(default=(), init=False)
    _asked_at: float = field(default=float("-inf"), init=False)  # monotonic

    def faults(self) -> tuple[str, ...]:
        """What is wrong with its settings, as of at most `FRESH_S` ago.

        Raises:
            RedisError: it does not answer.
        """
        if not self.is_any_allowed and time.monotonic() - self._asked_at >= FRESH_S:
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.info("memory")
                pipe.info("persistence")
                self._faults = unsafe_settings(*pipe.execute())
            self._asked_at = time.monotonic()
        return self._faults
