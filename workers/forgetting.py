"""What is over its time is deleted, tenant by tenant, as long as its policy of now says; each audit says what went."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, TypeAlias

from redis import Redis
from redis.exceptions import RedisError

from contract import chain, keys
from contract.audit import Erased, words_of
from contract.policy import Policy
from contract.retention import ERASE, Lifetimes, Retention
from workers.delivery import Stores
from workers.metrics import WorkerMetrics
from workers.policies import PolicyReader, UnknownPolicy
from workers.records import persistently
from workers.sweeper import Sweeper
from workers.trouble import log_redis_error

log = logging.getLogger(__name__)

LifetimesOf: TypeAlias = Callable[[str], tuple[Lifetimes, Policy | None]]  # of a tenant
AT_ONCE = 100  # jobs of one script, files of one entry: Redis does nothing else meanwhile


@dataclass(frozen=True)
class Forgetting:
    """Sweeps records, stores and audits. Several workers may do so at once."""

    connection: Redis
    stores: Stores
    policies: PolicyReader
    most: Lifetimes  # the deployment's
    margin_s: float  # how much longer than its record a picture is kept
    every_s: float
    metrics: WorkerMetrics

    def run(self, is_closing: threading.Event) -> None:
        """Sweep everything again and again until the worker closes."""
        while True:
            try:
                self._sweep(is_closing.is_set)
            except RedisError as error:
                log_redis_error("deleting what is over its time", error, self.metrics)
            if is_closing.wait(self.every_s):
                return

    def _sweep(self, is_closing: Callable[[], bool]) -> None:
        lifetimes = cache(self._lifetimes)
        for tenant in self._tenants(keys.ENDED):
            self._erase_results(tenant, *lifetimes(tenant), is_closing)
        for store, is_held in ((self.stores.passed, False), (self.stores.withheld, True)):
            sweeper = Sweeper(store, partial(self._pictures_s, lifetimes, is_held), partial(self._prove, lifetimes))
            sweeper.sweep(is_closing)
        for tenant in self._tenants(keys.AUDITED):
            self._cut_audit(tenant, *lifetimes(tenant))

    def _tenants(self, key: str) -> list[str]:
        found: Any = self.connection.smembers(key)
        return sorted(tenant.decode() for tenant in found)

    def _lifetimes(self, tenant: str) -> tuple[Lifetimes, Policy | None]:
        """How long a tenant's things are kept, and under which policy; None where the deployment alone says so."""
        try:
            policy = self.policies.of_tenant(tenant)
        except UnknownPolicy as unknown:
            log.error("what %s leaves behind is kept as the deployment says: %s", tenant, unknown)
            policy = None
        retention = policy.retention if policy else Retention()
        return retention.within(self.most), policy

    def _erase_results(
        self, tenant: str, lifetimes: Lifetimes, policy: Policy | None, is_closing: Callable[[], bool]
    ) -> None:
        erase, passed_over, looked = self.connection.register_script(ERASE), 0, AT_ONCE
        while looked == AT_ONCE and not is_closing():
            told: list[Any] = [repr(time.time()), lifetimes.results_s, lifetimes.held_s, _now(), _json(policy)]
            gone, looked = erase(args=[tenant, *told, passed_over, AT_ONCE])
            passed_over += looked - gone

    def _cut_audit(self, tenant: str, lifetimes: Lifetimes, policy: Policy | None) -> None:
        before_ms = int((time.time() - lifetimes.audit_s) * 1000)
        self.connection.register_script(chain.CUT)(args=[tenant, before_ms, _now(), _json(policy)])

    def _pictures_s(self, lifetimes: LifetimesOf, is_held: bool, tenant: str) -> float:
        """How long a tenant's pictures are kept; a held one that is released lasts as long as any."""
        found, _ = lifetimes(tenant)
        return found.results_s + (found.held_s if is_held else 0) + self.margin_s

    def _prove(self, lifetimes: LifetimesOf, tenant: str, names: list[str]) -> None:
        _, policy = lifetimes(tenant)
        append = self.connection.register_script(chain.APPEND)
        for start in range(0, len(names), AT_ONCE):
            some = tuple(names[start : start + AT_ONCE])
            entry = Erased(
                tenant=tenant,
                at=datetime.now(UTC),
                what="pictures",
                count=len(some),
                names=some,
                policy=policy.ref if policy else None,
            )
            persistently(partial(append, args=[tenant, *words_of(entry)]))


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _json(policy: Policy | None) -> str:
    return policy.ref.model_dump_json() if policy else ""
