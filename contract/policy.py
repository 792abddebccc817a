"""Policies: the floor under every request's plan, what a request may not ask for, what is told and kept.

A policy is known by its id and version, and no version ever changes. An assignment says which one a tenant is under,
and which one is only watched: what that one would have decided is recorded, and nothing else follows from it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StrictBool, StringConstraints, model_validator

from contract.at_rest import PromptForm
from contract.concept_text import MAX_CONCEPTS
from contract.detail import ScoreDetail
from contract.filter import Action
from contract.job import Job, PolicyRef
from contract.plan import METHODS, SafetyPlan
from contract.prompt_concepts import NO_PROMPT, PromptDecision, TextScore, judged_prompt
from contract.prompt_rules import PromptRules
from contract.request import WrittenPlan, plan_of
from contract.retention import Retention
from contract.steering import Sega, Sld
from contract.strict import Number, Strict, Text
from contract.strictness import NO_FLOOR, joint_floor, shortfalls, strictest

EVERYONE = "*"  # in an assignment's place: every tenant without one of its own

MethodName = Literal["none", "safree", "erased", "negative", "sld", "sega", "unguidance", "filter"]
PolicyId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
PolicyVersion = Annotated[int, Field(ge=1, le=999_999), Number]
Limit = Annotated[float, Field(ge=0, le=1_000_000), Number]


def _served(name: str) -> str:
    method, colon, _ = name.partition(":")
    if method not in METHODS:
        raise ValueError(f"unknown safety method {method!r}; choose from: {', '.join(METHODS)}")
    if colon:
        SafetyPlan.from_short_form(name)
    return name


PlanName = Annotated[str, Field(max_length=100), AfterValidator(_served)]


class Range(Strict):
    """The bounds of a number, both included; null is none."""

    min: Limit | None = None
    max: Limit | None = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is over max {self.max:g}; exchange them")
        return self

    def fault(self, value: float) -> str | None:
        """What is wrong with a value, in words."""
        if self.min is not None and value < self.min:
            return f"must be at least {self.min:g}"
        if self.max is not None and value > self.max:
            return f"must be at most {self.max:g}"
        return None


class Bounds(Strict):
    """What a request's numbers may be, once its defaults are filled in."""

    steps: Range = Range()
    guidance_scale: Range = Range()
    width: Range = Range()
    height: Range = Range()
    num_images: Range = Range()

    def faults(self, job: Job) -> Iterator[tuple[str, str]]:
        """Fields of the request that are out of bounds, and what to change."""
        values = {
            "steps": job.steps,
            "guidance_scale": job.guidance_scale,
            "width": job.width,
            "height": job.height,
            "num_images": len(job.seeds),
        }
        for field, value in values.items():
            bounds: Range = getattr(self, field)
            if field == "num_images" and job.compared:
                field = "plans"
            if (fault := bounds.fault(value)) is not None:
                yield field, fault


class Policy(Strict):
    """What every plan must at least do, and what no request may ask for."""

    id: PolicyId
    version: PolicyVersion
    description: Annotated[Text, Field(max_length=1000)] = ""
    floor: WrittenPlan = SafetyPlan()
    forbidden: tuple[MethodName, ...] = Field((), description='"none" forbids a plan that uses no method.')
    allowed: Annotated[tuple[PlanName, ...], Field(max_length=64)] | None = Field(
        None, description="All that plans may name, with a preset (`sld:max`) or with any (`sld`); null: everything."
    )
    scores: ScoreDetail = Field(
        ScoreDetail.FULL,
        description="How exactly scores are told to webhooks, and to callers without a scope but `generate`.",
    )
    bounds: Bounds = Bounds()
    prompt_rules: PromptRules = PromptRules()
    prompts: PromptForm = Field(PromptForm.HASHED, description="What the audit has of prompts.")
    retention: Retention = Field(Retention(), description="How long what jobs leave behind is kept.")
    reviewers: Annotated[int, Field(ge=1, le=2), Number] = Field(
        1, description="How many people must agree before a held picture is released."
    )
    keep_blocked: StrictBool = Field(
        False,
        description="Blocked pictures are kept for a while, where only people who review see them, so that they can be"
        " appealed.",
    )

    @property
    def ref(self) -> PolicyRef:
        """How results name this policy."""
        return PolicyRef(id=self.id, version=self.version)

    def refused_methods(self, requested: SafetyPlan) -> tuple[str, ...]:
        """The methods of the plan that this policy refuses."""
        names = requested.names or {"none": "none"}
        return tuple(
            method
            for method, name in names.items()
            if method in self.forbidden or not (self.allowed is None or {method, name} & {*self.allowed})
        )

    def allows_some(self, method: str) -> bool:
        """Whether a plan may name this method, with some preset at least."""
        allowed = self.allowed if self.allowed is not None else (method,)
        return method not in self.forbidden and method in {name.partition(":")[0] for name in allowed}

    def faults(self, job: Job) -> Iterator[tuple[str, str]]:
        """Fields of a job's request that this policy refuses, and why; the floor apart."""
        for index, each in enumerate(job.plans):
            if refused := self.refused_methods(plan_of(each.requested)):
                field = f"plans.{index}" if job.compared else "safety"
                yield field, f"the policy {self.id!r} does not allow: {', '.join(refused)}; choose another safety plan"
        for field, fault in () if job.uploads else self.bounds.faults(job):
            yield field, f"{fault} under the policy {self.id!r}"
        yield from self.faults_of_texts(job)

    def faults_of_texts(self, job: Job) -> Iterator[tuple[str, str]]:
        """Fields of a job's request whose words this policy refuses, and what to do."""
        for field, found in self._listed_in(job):
            yield field, f"{self._why_listed(found)}; write it without"

    def on_prompt(self, job: Job, texts: Sequence[TextScore]) -> PromptDecision:
        """What the prompt rules make of a job's texts and of the scores that stand on record of them."""
        if job.uploads:
            return NO_PROMPT
        decision = judged_prompt(texts, self.prompt_rules)
        if job.policy == self.ref:  # under which its words were let in
            return decision
        refusals = tuple(
            (name, f"prompt: {field} {self._why_listed(found)}")
            for field, found in self._listed_in(job)
            for name in found
        )
        return replace(decision, action=Action.BLOCK, refusals=refusals) if refusals else decision

    def _listed_in(self, job: Job) -> Iterator[tuple[str, tuple[str, ...]]]:
        for field, text in screened_texts(job):
            if found := self.prompt_rules.found_in(text):
                yield field, found

    def _why_listed(self, found: Sequence[str]) -> str:
        return f"holds words that the policy {self.id!r} lists as {', '.join(found)}"


def screened_texts(job: Job) -> Iterator[tuple[str, str]]:
    """A job's texts that a picture may come to show, by field."""
    yield from shown_texts(job.prompt, job.negative_prompt, [each.plan for each in job.plans])


def shown_texts(prompt: str, negative_prompt: str, plans: Sequence[SafetyPlan]) -> Iterator[tuple[str, str]]:
    """The prompt, under SLD the negative prompt, which that pushes towards, and what SEGA is told to add."""
    yield "prompt", prompt
    guidances = [plan.guidance for plan in plans]
    if negative_prompt and any(isinstance(guidance, Sld) for guidance in guidances):
        yield "negative_prompt", negative_prompt
    for number, guidance in enumerate(guidances):
        place = f"plans.{number}" if len(plans) > 1 else "safety"
        for index, edit in enumerate(guidance.concepts or () if isinstance(guidance, Sega) else ()):
            if edit.direction == "add":
                yield f"{place}.guidance.concepts.{index}.text", edit.text


class Assignment(Strict):
    """The versions of policies that a tenant is under."""

    enforce: PolicyRef
    shadow: PolicyRef | None = Field(None, description="Watched only; null: none.")

    @property
    def refs(self) -> tuple[PolicyRef, ...]:
        """Every version named."""
        return (self.enforce, self.shadow) if self.shadow else (self.enforce,)


@dataclass(frozen=True)
class InForce:
    """What a tenant's requests are under: its policy, above the floor of the whole deployment."""

    policy: Policy
    beneath: SafetyPlan = NO_FLOOR
    shadow: Policy | None = None

    @cached_property
    def floor(self) -> SafetyPlan:
        """Of the policy and the deployment together."""
        return joint_floor(self.policy.floor, self.beneath)

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Places at which the policy's floor cannot hold above the deployment's."""
        return shortfalls(self.floor, self.policy.floor)

    @property
    def watched(self) -> "InForce | None":
        """The same for the policy in the shadow; None without one."""
        return None if self.shadow is None else InForce(self.shadow, self.beneath)

    def effective(self, requested: SafetyPlan) -> SafetyPlan:
        """The strictest of request, policy and the deployment's floor, place by place."""
        return strictest(requested, self.floor)

    def crowding(self, requested: SafetyPlan) -> str | None:
        """What is wrong with the filter's concepts, or rules, when it takes no more of them than these; None: nothing.
        There is no effective plan then, so it is to be asked before."""
        filters = [plan.output for plan in (requested, self.floor) if plan.output is not None]
        concepts = {concept.name for each in filters for concept in each.concepts}
        if (total := max(len(concepts), len({rule.name for each in filters for rule in each.rules}))) <= MAX_CONCEPTS:
            return None
        return f"together with those of the policy they are {total} of at most {MAX_CONCEPTS}; leave some out"

    def faults(self, job: Job) -> Iterator[tuple[str, str]]:
        """Why a job may not run under this, by field; nothing for every job that was made under it."""
        yield from self.policy.faults(job)
        for index, each in enumerate(job.plans):
            for place in shortfalls(each.plan, self.floor):
                field = f"plans.{index}.{place}" if job.compared else f"safety.{place}"
                yield field, f"is under the floor of the policy {self.policy.id!r}"


def field_of(ref: PolicyRef) -> str:
    """Under what a version stands in `keys.POLICIES`."""
    return f"{ref.id}@{ref.version}"
