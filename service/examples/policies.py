"""Policies, whose they are, and what one would have changed."""

from pydantic import BaseModel

from contract.filter import Action, ConceptRule, Filter
from contract.job import PolicyRef
from contract.listing import (
    AssignedPolicy,
    Policies,
    PolicySummary,
)
from contract.plan import SafetyPlan
from contract.policy import Policy
from contract.replay import Change, ConceptChange, Example, Replay
from service.examples.a_job import CREATED, FINISHED, ID

_POLICY = Policy(
    id="storefront",
    version=2,
    description="Weapons wait for a person, all else that is found is blocked.",
    floor=SafetyPlan(output=Filter(rules=(ConceptRule(name="weapon", threshold=0.2, action=Action.REVIEW),))),
    forbidden=("none",),
)
_ASSIGNED = AssignedPolicy(tenant="someone", enforce=PolicyRef(id="default", version=1), shadow=_POLICY.ref)

EXAMPLES: tuple[BaseModel, ...] = (
    _POLICY,
    Policies(
        own=PolicyRef(id="default", version=1),
        policies=[
            PolicySummary(id=_POLICY.id, version=_POLICY.version, description=_POLICY.description),
        ],
        assignments=[_ASSIGNED],
    ),
    _ASSIGNED,
    Replay(
        policy=_POLICY.ref,
        tenant="someone",
        first=CREATED,
        last=FINISHED,
        is_complete=True,
        jobs=120,
        pictures=240,
        before={"passed": 230, "blocked": 10},
        after={"passed": 222, "blocked": 10, "review": 8},
        changes=(Change(before="passed", after="review", count=8, examples=(Example(job=ID, index=1),)),),
        concepts=(ConceptChange(name="weapon", before=10, after=18, examples=(Example(job=ID, index=1),)),),
        prompts_unknown=0,
    ),
)
