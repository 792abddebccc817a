"""Policies: every version there is, new ones, and who is under which."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Response
from pydantic import Field, ValidationInfo, field_validator

from contract.listing import AssignedPolicy, Policies, PolicySummary
from contract.policy import Assignment, Policy, PolicyVersion
from contract.replay import Replay
from service.audit.reading import Audit
from service.authentication import Administering
from service.gateway import Here
from service.json_only import require_json
from service.problem_json import documented
from service.problems import BadRequest, FieldError, InvalidRequest, PolicyExists, PolicyNotFound, UnsupportedMediaType
from service.replaying import Window, replay
from service.routes.jobs import Moment

router = APIRouter(tags=["policies"])

_NEW: dict[str, Any] = {
    "strict": {
        "summary": "Knives are blocked, other weapons wait for a person",
        "value": {
            "id": "storefront",
            "version": 1,
            "floor": {
                "output": {
                    "method": "filter",
                    "action": "block",
                    "rules": [{"name": "weapon", "threshold": 0.18, "action": "review"}],
                }
            },
            "forbidden": ["none"],
            "bounds": {"num_images": {"max": 4}},
        },
    }
}
_ASSIGNED: dict[str, Any] = {
    "watched": {
        "summary": "One policy decides, the next one is watched",
        "value": {"enforce": {"id": "default", "version": 1}, "shadow": None},
    }
}

_REPLAYED: dict[str, Any] = {
    "version": {"summary": "A version that is there", "value": {"tenant": "someone", "version": 1}},
}

PolicyName = Annotated[str, Path(description="A policy's id.", max_length=63, examples=["default"])]
TenantPath = Annotated[
    str,
    Path(
        pattern=r"^(\*|[a-z0-9][a-z0-9-]{0,62})$",
        max_length=63,
        description="A tenant, or `*`: every tenant without an assignment of its own.",
        examples=["someone"],
    ),
]


class ReplayRequest(Window):
    """Which policy is replayed, and over what."""

    version: PolicyVersion | None = Field(None, description="Null: the newest.")
    policy: Policy | None = Field(None, description="A policy that is not there yet, in place of a version.")
    since: Moment | None = Field(None, description="Put on record then or later.")
    until: Moment | None = Field(None, description="Put on record before.")

    @field_validator("policy")
    @classmethod
    def _is_in_place_of_a_version(cls, policy: Policy | None, info: ValidationInfo) -> Policy | None:
        if policy is not None and info.data.get("version") is not None:
            raise ValueError("takes the place of a version; leave one of the two out")
        return policy


@router.get("/policies", operation_id="list_policies", summary="Policies, and who is under which")
async def list_policies(caller: Administering, gateway: Here) -> Policies:
    """Every version of every policy. `own` is the deployment's: it holds where nothing else is assigned."""
    assigned = await gateway.policies.assignments()
    return Policies(
        own=gateway.policies.own,
        policies=[
            PolicySummary(id=policy.id, version=policy.version, description=policy.description)
            for policy in await gateway.policies.all()
        ],
        assignments=[
            AssignedPolicy(tenant=tenant, enforce=one.enforce, shadow=one.shadow) for tenant, one in assigned.items()
        ],
    )


@router.post(
    "/policies",
    operation_id="add_policy",
    summary="Add a policy, or a version of one",
    status_code=201,
    response_description="It is there now; nobody is under it yet.",
    responses={
        200: {"model": Policy, "description": "It was there already."},
        **documented(BadRequest, PolicyExists, UnsupportedMediaType),
    },
    dependencies=[Depends(require_json)],
)
async def add_policy(
    policy: Annotated[Policy, Body(openapi_examples=_NEW)], caller: Administering, gateway: Here, response: Response
) -> Policy:
    """A version never changes: sent again it is the same, with another content it is refused."""
    response.status_code = 201 if await gateway.policies.add(policy) else 200
    response.headers["Location"] = f"/policies/{policy.id}?version={policy.version}"
    return policy


@router.get(
    "/policies/{policy_id}",
    operation_id="get_policy",
    summary="A policy",
    responses=documented(PolicyNotFound),
)
async def get_policy(
    policy_id: PolicyName,
    caller: Administering,
    gateway: Here,
    version: Annotated[int | None, Query(ge=1, le=999_999, description="Null: the newest.")] = None,
) -> Policy:
    """One version of a policy, whole."""
    return await gateway.policies.find(policy_id, version)


@router.post(
    "/policies/{policy_id}/replay",
    operation_id="replay_policy",
    summary="What a policy would have decided",
    responses=documented(BadRequest, PolicyNotFound, UnsupportedMediaType),
    dependencies=[Depends(require_json)],
)
async def replay_policy(
    policy_id: PolicyName,
    wanted: Annotated[ReplayRequest, Body(openapi_examples=_REPLAYED)],
    caller: Administering,
    gateway: Here,
) -> Replay:
    """Judge the pictures on record once more, from their scores, as this policy would have.

    Nothing is changed. Counts are by verdict and by concept; examples name pictures, and no prompts.
    """
    if wanted.policy is not None and wanted.policy.id != policy_id:
        raise InvalidRequest(FieldError(field="policy.id", message=f"is not {policy_id!r}, which the address names"))
    policy = wanted.policy or await gateway.policies.find(policy_id, wanted.version)
    return await replay(Audit(gateway.redis), gateway.policies.above_floor(policy), wanted, wanted.since, wanted.until)


@router.put(
    "/tenants/{tenant}/policy",
    operation_id="assign_policy",
    summary="Put a tenant under a policy",
    responses=documented(BadRequest, PolicyNotFound, UnsupportedMediaType),
    dependencies=[Depends(require_json)],
)
async def assign_policy(
    tenant: TenantPath,
    assignment: Annotated[Assignment, Body(openapi_examples=_ASSIGNED)],
    caller: Administering,
    gateway: Here,
) -> AssignedPolicy:
    """`enforce` decides from now on, also about results that are read again; `shadow` is only watched.

    Jobs that wait are refused by the worker when their plan is under the new floor.
    """
    await gateway.policies.assign(tenant, assignment)
    return AssignedPolicy(tenant=tenant, enforce=assignment.enforce, shadow=assignment.shadow)


@router.delete(
    "/tenants/{tenant}/policy",
    operation_id="unassign_policy",
    summary="Put a tenant under the deployment's own policy again",
    status_code=204,
)
async def unassign_policy(tenant: TenantPath, caller: Administering, gateway: Here) -> None:
    """Nothing is to be done where there is no assignment."""
    await gateway.policies.unassign(tenant)
