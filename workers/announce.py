"""Tells the gateway which model is served, and that this worker is ready, for as long as it renews its lease."""

import threading
import time
from dataclasses import dataclass, field
from typing import Protocol

from redis import Redis

from contract import keys
from contract.model import ModelInfo, VariantInfo

FORGET_AFTER_S = 3600


class Variants(Protocol):
    """Erased weights that come and go while the worker runs."""

    def listed(self) -> tuple[VariantInfo, ...]:
        """All there are now, with their status."""
        ...

    def refused(self) -> dict[str, str]:
        """Why others are not served, by name."""
        ...


@dataclass
class Announcement:
    """A model on one worker. The model stays known when its last worker leaves; readiness ends with the lease."""

    connection: Redis
    info: ModelInfo
    tokenizer_json: bytes
    worker: str
    lease_s: float
    variants: Variants | None = None
    renewed_at: float | None = field(default=None, init=False)  # monotonic; None while not ready
    _told: ModelInfo | None = field(default=None, init=False, repr=False)  # None: nothing yet
    _lock: threading.RLock = field(default_factory=threading.RLock, init=False, repr=False)  # the last told is newest

    @property
    def member(self) -> str:
        """This worker's entry in the set of ready ones."""
        return f"{self.info.name}|{self.worker}"

    def publish(self) -> None:
        """Write the model and its tokenizer; again after Redis lost them, or when its variants have changed."""
        with self._lock, self.connection.pipeline() as pipeline:
            self._read_variants()
            pipeline.set(keys.tokenizer_key(self.info.tokenizer_sha256), self.tokenizer_json)
            pipeline.hset(keys.MODELS, self.info.name, self.info.model_dump_json())
            pipeline.execute()
            self._told = self.info

    def renew(self) -> None:
        """Be ready for another lease."""
        with self._lock:
            self._renew()

    def _renew(self) -> None:
        self._read_variants()
        now = time.time()
        with self.connection.pipeline(transaction=False) as pipeline:
            pipeline.zadd(keys.READY_WORKERS, {self.member: now + self.lease_s})
            pipeline.zremrangebyscore(keys.READY_WORKERS, "-inf", now - FORGET_AFTER_S)
            pipeline.hexists(keys.MODELS, self.info.name)
            pipeline.exists(keys.tokenizer_key(self.info.tokenizer_sha256))
            *_, model_is_known, tokenizer_is_known = pipeline.execute()
        self.renewed_at = time.monotonic()
        if self._told != self.info or not (model_is_known and tokenizer_is_known):
            self.publish()

    def _read_variants(self) -> None:
        if self.variants is not None:
            found = {"variants": self.variants.listed(), "refused_variants": self.variants.refused()}
            self.info = self.info.model_copy(update=found)

    def withdraw(self) -> None:
        """Be ready no longer."""
        self.renewed_at = None
        self.connection.zrem(keys.READY_WORKERS, self.member)
