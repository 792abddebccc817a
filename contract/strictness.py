"""Which of two safety plans is the stricter, place by place. Everything that policies promise rests on this order.

    place        at least as strict means
    output       a filter; for every concept at least its action, at a threshold not higher; where both regenerate for
                 it, not more often
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

from contract.filter import Action, ConceptRule, Filter, FilterConcept, SomeNamed, stricter
from contract.plan import SafetyPlan
from contract.steering import Guidance, Sld

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
    return both.model_copy(update={"regenerations": _fewest_regenerations("", asked, floor, own, both.action)})


def _fewest_regenerations(name: str, asked: Filter, floor: Filter, own: Action | None, action: Action) -> int | None:
    """How often at most a picture in which this is found is made again under both filters; None: `action` is another.
    The empty name stands for all that have none of their own."""
    if action is not Action.REGENERATE:
        return None
    asks = {each.action for each in asked.named if each.name == name} - {None} or {own}
    sides = [floor, asked] if Action.REGENERATE in asks else [floor]
    return min((times for side in sides if (times := side.regenerations_on(name))), default=None)


def _strictest_concepts(asked: Filter, floor: Filter, own: Action | None) -> Iterator[FilterConcept]:
    wanted = {concept.name: concept for concept in asked.concepts}
    for concept in floor.concepts:
        action = concept.action or floor.action
        if (other := wanted.pop(concept.name, None)) is None:
            yield _acting(concept, stricter(action, own), asked, floor, own)
            continue
        both = concept.model_copy(update={"threshold": min(concept.threshold, other.threshold)})
        yield _acting(both, stricter(action, other.action or own), asked, floor, own)
    for concept in wanted.values():
        # An action under the floor's would undo the floor, also for a concept of the model's own checker.
        yield _acting(concept, stricter(concept.action or own, floor.action), asked, floor, own)


def _strictest_rules(asked: Filter, floor: Filter, own: Action | None) -> Iterator[ConceptRule]:
    wanted = {rule.name: rule for rule in asked.rules}
    for rule in floor.rules:
        action = rule.action or floor.action
        if (other := wanted.pop(rule.name, None)) is None:
            both = rule.model_copy(update={"loosens": rule.loosens and own is None})
            yield _acting(both, stricter(action, own), asked, floor, own)
            continue
        thresholds = [each.threshold for each in (rule, other) if each.threshold is not None]
        changes = {"threshold": min(thresholds, default=None), "loosens": rule.loosens and other.loosens}
        yield _acting(rule.model_copy(update=changes), stricter(action, other.action or own), asked, floor, own)
    for rule in wanted.values():
        both = rule.model_copy(update={"loosens": False})
        yield _acting(both, stricter(rule.action or own, floor.action), asked, floor, own)


def _acting(named: SomeNamed, action: Action, asked: Filter, floor: Filter, own: Action | None) -> SomeNamed:
    """A concept or a rule with an action, and as few regenerations as both filters want."""
    times = _fewest_regenerations(named.name, asked, floor, own, action)
    return named.model_copy(update={"action": action, "regenerations": times})


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
    for name in ("", *names):
        if plan.action_on(name) is floor.action_on(name) is Action.REGENERATE:
            yield plan.regenerations_on(name) <= floor.regenerations_on(name)


def _is_no_looser(rule: ConceptRule | None, demanded: ConceptRule | None) -> bool:
    """Whether the threshold under one rule is at most that under the other, whatever the detector's own is."""
    if rule is not None and rule.loosens and not (demanded is not None and demanded.loosens):
        return False
    return _upper_bound(rule) <= _upper_bound(demanded)


def _upper_bound(rule: ConceptRule | None) -> float:
    return math.inf if rule is None or rule.threshold is None else rule.threshold
