"""Tells the gateway that erasures of a model can be made. It stays known when the worker leaves."""

import logging
import time
from dataclasses import dataclass, field

from redis import Redis

from contract import keys
from contract.erasure import Lab
from contract.redis_safety import RedisSafety

log = logging.getLogger(__name__)


@dataclass
class Announcement:
    """A lab, and whether it takes jobs."""

    connection: Redis
    lab: Lab
    redis_safety: RedisSafety
    is_fit: bool = field(default=True, init=False)  # whether jobs taken now would not be lost
    renewed_at: float = field(default=float("-inf"), init=False)  # monotonic

    def renew(self) -> None:
        """Again, should Redis have lost it."""
        self.connection.hset(keys.LABS, self.lab.model, self.lab.model_dump_json())
        self.renewed_at = time.monotonic()

    def look(self) -> None:
        """See whether Redis is safe; no detector judges here."""
        faults = self.redis_safety.faults()
        if faults and self.is_fit:
            log.error("no jobs are taken: %s", "; ".join(faults))
        self.is_fit = not faults

    def withdraw(self) -> None:
        """Nothing: what is accepted meanwhile waits."""
