"""What Redis must be set to, for an accepted job to stay there: it evicts nothing, and keeps an append-only file."""

from collections.abc import Mapping
from typing import Any, Final

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
