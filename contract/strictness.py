"""Which of two safety plans is the stricter, place by place. Everything that policies promise rests on this order.

    place        at least as strict means
    output       a filter; for every concept at least its action, at a threshold not higher; where both regenerate, not
                 more often
    guidance     the floor's own method, or the same SLD at a preset not weaker, with nothing else set
    the others   the floor's own method, every parameter of it

Methods of one place are not ranked among each other: nobody has measured that one is stricter on every picture. So at
a place with a floor, the floor's method takes the place of another.

Actions run from annotate over blur, regenerate and review to block. A filter that names no action leaves it to the
floor. A rule may raise a detector's threshold only where every side that has a filter says so.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

from contract.plan import Action, ConceptRule, Filter, FilterConcept, Guidance, SafetyPlan, Sld, stricter

NO_FLOOR = SafetyPlan()
SLD_PRESETS = ("weak", "medium", "strong", "max")


def _plan(text: Any) -> Any:
    return SafetyPlan.from_short_form(text.replace(" ", "").split(",")) if isinstance(text, str) else text


FloorPlan = Annotated[SafetyPlan, NoDecode, BeforeValidator(_plan)]  # a setting: "sld:strong,filter"


def strictest(asked: SafetyPlan, floor: SafetyPlan) -> SafetyPlan:
    """The strictest of both, place by place; it is never under the floor."""
    return SafetyPlan(
        prompt=floor.prompt or asked.prompt,
        weights=floor.weights or asked.weights,
        guidance=asked.guidance if _holds_guidance(asked.guidance, floor.guidance) else floor.guidance,
        trajectory=floor.trajectory or asked.trajectory,
        output=_strictest_filter(asked.output, floor.output),
    )


def joint_floor(policy: SafetyPlan, beneath: SafetyPlan) -> SafetyPlan:
    """Two floors as one. Where they cannot both hold, the one beneath does: see `shortfalls`."""
    if policy.output is not None:  # a policy leaves nothing open
        policy = policy.model_copy(update={"output": policy.output.model_copy(update={"action": policy.output.action})})
    return strictest(policy, beneath)


def shortfalls(plan: SafetyPlan, floor: SafetyPlan) -> tuple[str, ...]:
    """The places at which a plan is under the floor."""
    holds = {
        "prompt": floor.prompt in (None, plan.prompt),
        "weights": floor.weights in (None, plan.weights),
        "guidance": _holds_guidance(plan.guidance, floor.guidance),
        "trajectory": floor.trajectory in (None, plan.trajectory),
        "output": floor.output is None or (plan.output is not None and all(_filter_holds(plan.output, floor.output))),
    }
    return tuple(place for place, is_held in holds.items() if not is_held)


def _holds_guidance(asked: Guidance | None, floor: Guidance | None) -> bool:
    if floor is None or asked == floor:
        return True
    if not (isinstance(asked, Sld) and isinstance(floor, Sld)):
        return False
    are_presets = all(sld == Sld(method="sld", preset=sld.preset) for sld in (asked, floor))
    return are_presets and SLD_PRESETS.index(asked.preset) >= SLD_PRESETS.index(floor.preset)


def _strictest_filter(asked: Filter | None, floor: Filter | None) -> Filter | None:
    if asked is None or floor is None:
        return floor or asked
    own = asked.action if "action" in asked.model_fields_set else None
    both = Filter(
        action=stricter(own, floor.action),
        concepts=tuple(_strictest_concepts(asked, floor, own)),
        rules=tuple(_strictest_rules(asked, floor, own)),
    )
    if Action.REGENERATE not in both.actions:
        return both
    bounds = [each.most_regenerations for each in (asked, floor) if each.most_regenerations]
    return both.model_copy(update={"regenerations": min(bounds)})


def _strictest_concepts(asked: Filter, floor: Filter, own: Action | None) -> Iterator[FilterConcept]:
    wanted = {concept.name: concept for concept in asked.concepts}
    for concept in floor.concepts:
        action = concept.action or floor.action
        if (other := wanted.pop(concept.name, None)) is None:
            yield concept.model_copy(update={"action": stricter(action, own)})
            continue
        changes = {
            "threshold": min(concept.threshold, other.threshold),
            "action": stricter(action, other.action or own),
        }
        yield concept.model_copy(update=changes)
    for concept in wanted.values():
        # An action under the floor's would undo the floor, also for a concept of the model's own checker.
        yield concept.model_copy(update={"action": stricter(concept.action or own, floor.action)})


def _strictest_rules(asked: Filter, floor: Filter, own: Action | None) -> Iterator[ConceptRule]:
    wanted = {rule.name: rule for rule in asked.rules}
    for rule in floor.rules:
        action = rule.action or floor.action
        if (other := wanted.pop(rule.name, None)) is None:
            changes = {"action": stricter(action, own), "loosens": rule.loosens and own is None}
        else:
            thresholds = [each.threshold for each in (rule, other) if each.threshold is not None]
            changes = {
                "threshold": min(thresholds, default=None),
                "action": stricter(action, other.action or own),
                "loosens": rule.loosens and other.loosens,
            }
        yield rule.model_copy(update=changes)
    for rule in wanted.values():
        yield rule.model_copy(update={"action": stricter(rule.action or own, floor.action), "loosens": False})


def _filter_holds(plan: Filter, floor: Filter) -> Iterator[bool]:
    """Whether a filter finds all that the floor's finds, and acts on it no more mildly; one answer for each thing."""
    concepts = {concept.name: concept for concept in plan.concepts}
    for demanded in floor.concepts:
        there = concepts.get(demanded.name)
        yield there is not None and there.text == demanded.text and there.threshold <= demanded.threshold
    rules = {rule.name: rule for rule in plan.rules}
    demanded_rules = {rule.name: rule for rule in floor.rules}
    for name in rules.keys() | demanded_rules.keys():
        yield _is_no_looser(rules.get(name), demanded_rules.get(name))
    names = {each.name for each in (*plan.named, *floor.named)}
    actions = [(plan.action, floor.action), *((plan.action_on(name), floor.action_on(name)) for name in names)]
    for action, demanded_action in actions:
        yield stricter(action, demanded_action) is action
    if (Action.REGENERATE, Action.REGENERATE) in actions:
        yield plan.most_regenerations <= floor.most_regenerations


def _is_no_looser(rule: ConceptRule | None, demanded: ConceptRule | None) -> bool:
    """Whether the threshold under one rule is at most that under the other, whatever the detector's own is."""
    if rule is not None and rule.loosens and not (demanded is not None and demanded.loosens):
        return False
    return _upper_bound(rule) <= _upper_bound(demanded)


def _upper_bound(rule: ConceptRule | None) -> float:
    return math.inf if rule is None or rule.threshold is None else rule.threshold
