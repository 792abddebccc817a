"""What an app asks for: the body of `POST /compare`, one prompt and one seed under several safety plans."""

from typing import Annotated

from pydantic import Field, StringConstraints, ValidationInfo, field_validator

from contract.filter import Action, Filter
from contract.plan import SafetyPlan
from contract.request import AskedPlan, PicturesRequest, plan_of
from contract.steering import Erased, Guidance, Safree, Sld, Unguidance
from contract.strict import Text

MOST_PLANS = 8

Label = Annotated[Text, StringConstraints(strip_whitespace=True), Field(min_length=1, max_length=60)]


class CompareRequest(PicturesRequest):
    """A request for one picture under each plan, all from the same seed."""

    plans: tuple[AskedPlan, ...] = Field(
        description=f"2 to {MOST_PLANS}; the first is what the others are measured against.",
        examples=[["none", "filter", "sld:medium", "unguidance"]],
        # pydantic would count the valid ones, and call a plan too few where one is only wrong
        json_schema_extra={"minItems": 2, "maxItems": MOST_PLANS},
    )
    labels: tuple[Label, ...] | None = Field(
        None, description="What the plans are called, each once and in their order; null: after their methods."
    )

    @field_validator("plans")
    @classmethod
    def _plans_differ(cls, plans: tuple[AskedPlan, ...]) -> tuple[AskedPlan, ...]:
        if not 2 <= len(plans) <= MOST_PLANS:
            raise ValueError(f"must have 2 to {MOST_PLANS} entries, not {len(plans)}")
        written_out = [plan_of(plan) for plan in plans]
        for index, plan in enumerate(written_out):
            if (before := written_out.index(plan)) != index:
                raise ValueError(f"plans {before} and {index} are the same, so that nothing is compared; leave one out")
        return plans

    @field_validator("labels")
    @classmethod
    def _labels_name_the_plans(cls, labels: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        plans = info.data.get("plans")
        if labels is None or plans is None:
            return labels
        if len(labels) != len(plans):
            raise ValueError(f"there are {len(labels)} for {len(plans)} plans; give one for each, or none")
        if repeated := sorted({label for label in labels if labels.count(label) > 1}):
            raise ValueError(f"must be unique; repeated: {', '.join(repeated)}")
        return labels

    @property
    def names(self) -> tuple[str, ...]:
        """What every plan is called: its label, else its methods, numbered where two have the same ones."""
        if self.labels is not None:
            return self.labels
        names = [_methods_of(plan_of(plan)) for plan in self.plans]
        return tuple(
            f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
            for index, name in enumerate(names)
        )


def _detail_of(place: Safree | Erased | Guidance | Unguidance | Filter | None) -> str | None:
    """What a method's name leaves open; of the filter nothing when it blocks, as it does by itself."""
    match place:
        case Sld(preset=detail) | Unguidance(preset=detail) | Erased(variant=detail):
            return detail
        case Filter(action=action) if action is not Action.BLOCK:
            return action.value
    return None


def _methods_of(plan: SafetyPlan) -> str:
    """`"sld:medium + filter"`, `"filter:blur"`, or `"none"`."""
    places = (plan.prompt, plan.weights, plan.guidance, plan.trajectory, plan.output)
    details = (_detail_of(place) for place in places)
    named = [
        f"{place.method}:{detail}" if detail else place.method
        for place, detail in zip(places, details, strict=True)
        if place is not None
    ]
    return " + ".join(named) or "none"
