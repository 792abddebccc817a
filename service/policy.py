"""Policies: the floor under every request's plan, and what a request may not ask for.

The effective plan is the stricter of what was requested and what the policy demands, place by place:

    place        stricter means
    output       the stricter action, of the filter and of each concept; the concepts of both, at the lower threshold;
                 the smaller number of regenerations
    guidance     the floor's method; the same SLD at a stronger preset, with nothing else set, stays
    the others   the floor's method
"""

from pathlib import Path
from typing import Literal

import yaml  # type: ignore[import-untyped]
from pydantic import Field, ValidationError

from contract.at_rest import PromptForm
from contract.job import PolicyRef
from contract.plan import Action, Filter, FilterConcept, Guidance, SafetyPlan, Sld
from contract.strict import Strict
from contract.verdict import stricter
from contract.wording import wording

SHIPPED = Path(__file__).parent / "policies"

MethodName = Literal["none", "safree", "erased", "negative", "sld", "sega", "unguidance", "filter"]

_SLD_PRESETS = ("weak", "medium", "strong", "max")


class Policy(Strict):
    """What every plan must at least do, and which methods no request may name."""

    id: str
    version: int
    description: str = ""
    floor: SafetyPlan = SafetyPlan()
    forbidden: tuple[MethodName, ...] = Field((), description='"none" forbids a plan that uses no method.')
    prompts: PromptForm = Field(PromptForm.HASHED, description="What the audit has of prompts.")

    @property
    def ref(self) -> PolicyRef:
        """How results name this policy."""
        return PolicyRef(id=self.id, version=self.version)

    def forbidden_methods(self, requested: SafetyPlan) -> tuple[str, ...]:
        """The methods of the plan that this policy refuses."""
        return tuple(name for name in requested.methods or ("none",) if name in self.forbidden)

    def concepts_beside(self, requested: SafetyPlan) -> int:
        """How many concepts of its own the filter has under the requested plan and this policy's floor."""
        filters = [plan.output for plan in (requested, self.floor) if plan.output is not None]
        return len({concept.name for each in filters for concept in each.concepts})


def load_policy(name_or_path: str) -> Policy:
    """Read a shipped policy by its name, or any by its path.

    Raises:
        FileNotFoundError: when there is neither.
        ValueError: when the file is not a policy; the text names what is wrong in it.
    """
    shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}
    path = shipped.get(name_or_path, Path(name_or_path))
    if not path.is_file():
        raise FileNotFoundError(f"no policy {name_or_path!r}; shipped: {', '.join(shipped)}; or give a file's path")
    try:
        return Policy.model_validate(yaml.safe_load(path.read_text()))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not a policy, and not YAML: {str(error).replace(chr(10), ' ')}") from error
    except ValidationError as error:
        wrong = (f"{'.'.join(map(str, entry['loc']))} {wording(entry)}".strip() for entry in error.errors())
        raise ValueError(f"{path} is not a policy: {'; '.join(wrong)}") from error


def effective_plan(requested: SafetyPlan, policy: Policy) -> SafetyPlan:
    """The stricter of the requested plan and the policy's floor, place by place."""
    floor = policy.floor
    return SafetyPlan(
        prompt=floor.prompt or requested.prompt,
        weights=floor.weights or requested.weights,
        guidance=_stricter_guidance(requested.guidance, floor.guidance),
        trajectory=floor.trajectory or requested.trajectory,
        output=_stricter_filter(requested.output, floor.output),
    )


def _stricter_guidance(requested: Guidance | None, floor: Guidance | None) -> Guidance | None:
    if floor is None:
        return requested
    if isinstance(requested, Sld) and isinstance(floor, Sld):
        only_presets = requested == Sld(method="sld", preset=requested.preset) and floor == Sld(
            method="sld", preset=floor.preset
        )
        if only_presets and _SLD_PRESETS.index(requested.preset) >= _SLD_PRESETS.index(floor.preset):
            return requested
    return floor


def _stricter_filter(requested: Filter | None, floor: Filter | None) -> Filter | None:
    if requested is None or floor is None:
        return floor or requested
    concepts = {concept.name: concept for concept in floor.concepts}
    for concept in requested.concepts:
        # An action under the floor's would undo the floor, also for a concept of the model's own checker.
        raised = concept.model_copy(update={"action": stricter(concept.action or requested.action, floor.action)})
        known = concepts.get(concept.name)
        concepts[concept.name] = raised if known is None else _stricter_concept(known, raised, floor.action)
    stricter_filter = Filter(action=stricter(requested.action, floor.action), concepts=tuple(concepts.values()))
    if Action.REGENERATE not in stricter_filter.actions:
        return stricter_filter
    bounds = [each.most_regenerations for each in (requested, floor) if each.most_regenerations]
    return stricter_filter.model_copy(update={"regenerations": min(bounds)})


def _stricter_concept(floor: FilterConcept, requested: FilterConcept, floor_action: Action) -> FilterConcept:
    return FilterConcept(
        name=floor.name,
        text=floor.text,
        threshold=min(floor.threshold, requested.threshold),
        action=stricter(floor.action or floor_action, requested.action or floor_action),
    )
