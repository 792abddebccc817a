"""The policy that a job is under, read anew from Redis: it may have been tightened since the job was accepted."""

from pydantic import ValidationError
from redis import Redis

from contract import keys
from contract.job import Job, PolicyRef
from contract.plan import SafetyPlan
from contract.policy import EVERYONE, Assignment, InForce, Policy, field_of


class UnknownPolicy(LookupError):
    """A policy that a job is under cannot be found, or not be read. Such a job is not run, and nothing is released."""


class PolicyReader:
    """Finds what is in force for a job; `beneath` is the deployment's floor. Versions never change: each is read once.

    For any thread.
    """

    def __init__(self, connection: Redis, beneath: SafetyPlan) -> None:
        self._connection = connection
        self._beneath = beneath
        self._known: dict[PolicyRef, Policy] = {}

    def in_force(self, job: Job) -> InForce:
        """What the job's tenant is assigned now; without an assignment, the policy under which it was accepted.

        Raises:
            UnknownPolicy
        """
        own, everyones = self._connection.hmget(keys.ASSIGNMENTS, [job.tenant, EVERYONE])
        try:
            assigned = own or everyones
            refs = Assignment.model_validate_json(assigned) if assigned else Assignment(enforce=job.policy)
            shadow = self._version(refs.shadow) if refs.shadow else None
            return InForce(self._version(refs.enforce), self._beneath, shadow)
        except ValidationError as error:
            raise UnknownPolicy("the job's policy, or its assignment, cannot be read") from error

    def of_tenant(self, tenant: str) -> Policy | None:
        """What a tenant is under now, whatever job it has; None when no gateway has said so yet.

        Raises:
            UnknownPolicy
        """
        own, everyones = self._connection.hmget(keys.ASSIGNMENTS, [tenant, EVERYONE])
        deployments = self._connection.get(keys.OWN_POLICY)
        try:
            if assigned := own or everyones:
                return self._version(Assignment.model_validate_json(assigned).enforce)
            return self._version(PolicyRef.model_validate_json(deployments)) if deployments else None
        except ValidationError as error:
            raise UnknownPolicy("the tenant's policy, or its assignment, cannot be read") from error

    def _version(self, ref: PolicyRef) -> Policy:
        if ref not in self._known:
            kept = self._connection.hget(keys.POLICIES, field_of(ref))
            if kept is None:
                raise UnknownPolicy(f"the policy {field_of(ref)} is not on record")
            self._known[ref] = Policy.model_validate_json(kept)
        return self._known[ref]
