"""Which policy holds for whom, and every version there is. Kept in Redis as API keys are: nothing is ever removed.

A deployment's own policy comes from a file and is put beside the others when it is first needed, so that workers and
later readers find the version that decided.
"""

import asyncio
import time
from typing import Any

from redis.asyncio import Redis
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.job import PolicyRef
from contract.plan import SafetyPlan
from contract.policy import EVERYONE, Assignment, InForce, Policy, field_of
from service.problems import FieldError, InvalidRequest, NotReady, PolicyExists, PolicyNotFound
from service.silence import Silence

FRESH_S = 0.5  # how long another process' assignment may not be known here


class Policies:
    """Reads, adds and assigns policies. `redis` decodes its answers."""

    def __init__(self, redis: "Redis", silence: Silence, own: Policy, beneath: SafetyPlan) -> None:
        self._redis = redis
        self._silence = silence
        self._own = own
        self._unassigned = InForce(own, beneath)
        self._beneath = beneath
        self._known: dict[PolicyRef, Policy] = {}
        self._assigned: dict[str, Assignment] = {}
        self._read_at = -FRESH_S
        own.prompt_rules.found_in("")  # made ready, as those that are read
        self._reading = asyncio.Lock()  # a version is read once, however many wait for it

    async def in_force(self, tenant: str) -> InForce:
        """What a tenant is under now.

        Raises:
            NotReady: when a version is missing, or the deployment's own is not the one that decided before.
        """
        if time.monotonic() - self._read_at >= FRESH_S:
            await self._refresh()
        assigned = self._assigned.get(tenant) or self._assigned.get(EVERYONE)
        if assigned is None:
            return self._unassigned
        shadow = await self._version(assigned.shadow) if assigned.shadow else None
        return InForce(await self._version(assigned.enforce), self._beneath, shadow)

    async def version(self, ref: PolicyRef) -> Policy:
        """One version.

        Raises:
            PolicyNotFound: when there is none.
        """
        if ref == self._own.ref:
            return self._own
        if ref not in self._known:
            async with self._reading:
                await self._read(ref)
        return self._known[ref]

    async def _read(self, ref: PolicyRef) -> None:
        if ref in self._known:
            return
        async with self._silence.noticed_in_turn():
            kept: Any = await self._redis.hget(keys.POLICIES, field_of(ref))
        if kept is None:
            raise PolicyNotFound
        policy = Policy.model_validate_json(kept)
        await run_in_threadpool(policy.prompt_rules.found_in, "")  # long lists take seconds to be made ready
        self._known[ref] = policy

    @property
    def own(self) -> PolicyRef:
        """The deployment's own."""
        return self._own.ref

    def above_floor(self, policy: Policy) -> InForce:
        """What would hold if a tenant were under this policy."""
        return InForce(policy, self._beneath)

    async def find(self, policy_id: str, version: int | None = None) -> Policy:
        """One version of a policy; without a number, the newest.

        Raises:
            PolicyNotFound: when there is none.
        """
        if version is not None:
            return await self.version(PolicyRef(id=policy_id, version=version))
        versions = [policy for policy in await self.all() if policy.id == policy_id]
        if not versions:
            raise PolicyNotFound
        return versions[-1]

    async def all(self) -> list[Policy]:
        """Every version, by id and number."""
        async with self._silence.noticed_in_turn():
            kept: Any = await self._redis.hgetall(keys.POLICIES)
        found = {policy.ref: policy for policy in (self._own, *map(Policy.model_validate_json, kept.values()))}
        return sorted(found.values(), key=lambda policy: (policy.id, policy.version))

    async def assignments(self) -> dict[str, Assignment]:
        """Who is under what, by tenant."""
        await self._refresh()
        return dict(sorted(self._assigned.items()))

    async def assigned(self, tenant: str) -> Assignment:
        """What a tenant is under, whether by an assignment or not."""
        assigned = await self.assignments()
        return assigned.get(tenant) or assigned.get(EVERYONE) or Assignment(enforce=self.own)

    async def add(self, policy: Policy) -> bool:
        """Put a version beside the others. Whether it was not there yet.

        Raises:
            InvalidRequest: its floor cannot hold above the deployment's.
            PolicyExists: its number stands for another content already.
        """
        if conflicts := self.above_floor(policy).conflicts:
            message = "the deployment's floor demands another method at this place; take that one, or leave it out"
            raise InvalidRequest(*(FieldError(field=f"floor.{place}", message=message) for place in conflicts))
        async with self._silence.noticed_in_turn():
            is_new = await self._redis.hsetnx(keys.POLICIES, field_of(policy.ref), policy.model_dump_json())
        if not is_new and await self.version(policy.ref) != policy:
            raise PolicyExists(
                f"Version {policy.version} of {policy.id!r} exists with another content; raise the version."
            )
        return bool(is_new)

    async def assign(self, tenant: str, assignment: Assignment) -> None:
        """Put a tenant under a policy; requests from now on are served so, here at once and elsewhere in a moment.

        Raises:
            PolicyNotFound: one of the versions does not exist.
        """
        for ref in assignment.refs:
            await self.add(await self.version(ref))  # the deployment's own may not have been written yet
        async with self._silence.noticed_in_turn():
            await self._redis.hset(keys.ASSIGNMENTS, tenant, assignment.model_dump_json())
        self._read_at = -FRESH_S

    async def unassign(self, tenant: str) -> bool:
        """Take the deployment's own policy again. Whether there was another."""
        async with self._silence.noticed_in_turn():
            was_assigned = await self._redis.hdel(keys.ASSIGNMENTS, tenant)
        self._read_at = -FRESH_S
        return bool(was_assigned)

    async def _version(self, ref: PolicyRef) -> Policy:
        try:
            return await self.version(ref)
        except (PolicyNotFound, ValueError):  # pydantic's are among the latter, and quote what they found
            raise NotReady(
                f"The policy {field_of(ref)} is assigned, and missing or damaged; put it back.", 30
            ) from None

    async def _refresh(self) -> None:
        own = field_of(self._own.ref)
        async with self._silence.noticed_in_turn(), self._redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.ASSIGNMENTS)
            pipe.hsetnx(keys.POLICIES, own, self._own.model_dump_json())
            pipe.hget(keys.POLICIES, own)
            pipe.set(keys.OWN_POLICY, self._own.ref.model_dump_json())
            assigned, _, kept, _ = await pipe.execute()
        if Policy.model_validate_json(kept) != self._own:
            raise NotReady(f"The policy {own} has decided with another content before: raise its version.", 30)
        self._assigned = {tenant: Assignment.model_validate_json(text) for tenant, text in assigned.items()}
        self._read_at = time.monotonic()
