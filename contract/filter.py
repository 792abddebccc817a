"""The output filter: what is found in a finished picture, and what happens then."""

from enum import StrEnum
from typing import Annotated, Literal, Self, TypeVar

from pydantic import Field, StrictBool, ValidationInfo, field_validator, model_validator

from contract.concept_text import MAX_CONCEPTS, ConceptName, ConceptText
from contract.strict import Strict

DEFAULT_REGENERATIONS = 2


class Action(StrEnum):
    """What happens to a picture in which a concept is found, from mildest to strictest.

    Of several concepts found, the strictest action holds.
    """

    ANNOTATE = "annotate"  # delivered as it is, the concept shown
    BLUR = "blur"  # delivered past recognition
    REGENERATE = "regenerate"  # made again with other seeds; the first picture with nothing to withhold is delivered
    REVIEW = "review"  # withheld until a person has looked
    BLOCK = "block"  # withheld


_RANKS = {action: rank for rank, action in enumerate(Action)}


def stricter(*actions: Action | None) -> Action:
    """The strictest of some actions, None being milder than any."""
    return max((action for action in actions if action is not None), key=_RANKS.__getitem__)


SomeNamed = TypeVar("SomeNamed", "FilterConcept", "ConceptRule")
Regenerations = Annotated[int, Field(ge=1, le=5)]
_DOES_NOTHING = "does nothing without the action 'regenerate'; take that action, or leave this out"
_OWN_REGENERATIONS = Field(
    None,
    description="How often at most a picture in which it is found is made again, with the action `regenerate` only;"
    " null takes the filter's own number.",
)


class FilterConcept(Strict):
    """A concept given as text: found when cos(picture, text) is over the threshold."""

    name: ConceptName
    text: ConceptText
    threshold: float = Field(ge=-1, le=1)
    action: Action | None = Field(None, description="Null takes the filter's own action.")
    regenerations: Regenerations | None = _OWN_REGENERATIONS


class ConceptRule(Strict):
    """What is different for one concept that a detector already scores. What it leaves null stays as it is."""

    name: ConceptName
    threshold: float | None = Field(None, ge=-1, le=1, description="Null takes the detector's own.")
    action: Action | None = Field(None, description="Null takes the filter's own action.")
    regenerations: Regenerations | None = _OWN_REGENERATIONS
    loosens: StrictBool = Field(
        False,
        description="Whether the threshold may lie over the detector's own; else the lower of the two holds. Under a"
        " floor with a filter, that of a request never does.",
    )

    @field_validator("loosens")
    @classmethod
    def _there_is_a_threshold(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "threshold" in info.data and info.data["threshold"] is None:
            raise ValueError("does nothing without a threshold; give one, or leave this out")
        return value


class Filter(Strict):
    """The output filter: a picture in which a concept is found is acted on instead of delivered as it is.

    Concepts may share a text, so that one can be annotated from a low threshold on and blocked from a high one.
    A filter that names no action takes that of the policy's floor; without one, it blocks.
    """

    method: Literal["filter"] = "filter"
    action: Action = Action.BLOCK
    concepts: Annotated[tuple[FilterConcept, ...], Field(max_length=MAX_CONCEPTS)] = Field(
        (), description="Concepts beyond those of the model's own checker."
    )
    rules: Annotated[tuple[ConceptRule, ...], Field(max_length=MAX_CONCEPTS)] = Field(
        (), description="What is different for single concepts of the model's own."
    )
    regenerations: Regenerations | None = Field(
        None,
        description="How often at most a picture is made again, with the action `regenerate` only;"
        f" null: {DEFAULT_REGENERATIONS}. When none passes, the last is blocked.",
    )

    @property
    def named(self) -> "tuple[FilterConcept | ConceptRule, ...]":
        """Everything in it that has a name of its own."""
        return (*self.concepts, *self.rules)

    @property
    def actions(self) -> frozenset[Action]:
        """Every action that a concept found may have."""
        return frozenset({self.action, *(each.action for each in self.named if each.action)})

    def action_on(self, name: str) -> Action:
        """The action on a concept that was found: its own, else the filter's."""
        own = [each.action for each in self.named if each.name == name and each.action]
        return stricter(*own) if own else self.action

    def regenerations_on(self, *names: str) -> int:
        """How often at most a picture in which these are found is made again: as often as the one says that allows it
        the least. Those with another action have no say."""
        usual, bounds = self.regenerations or DEFAULT_REGENERATIONS, []
        for name in names:
            if self.action_on(name) is Action.REGENERATE:
                own = [one for one in self.named if one.name == name and one.action in (None, Action.REGENERATE)]
                bounds.append(min((one.regenerations or usual for one in own), default=usual))
        return min(bounds, default=0)

    @property
    def most_regenerations(self) -> int:
        """How often at most a picture is made again, whatever is found in it."""
        return max(map(self.regenerations_on, ("", *(each.name for each in self.named))))  # no concept is called ""

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        for what, names in (("concept", [each.name for each in self.concepts]), ("rule", [r.name for r in self.rules])):
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"{what} names must be unique; repeated: {', '.join(repeated)}")
        return self

    @field_validator("concepts", "rules")
    @classmethod
    def _each_regenerates(cls, value: "tuple[SomeNamed, ...]", info: ValidationInfo) -> "tuple[SomeNamed, ...]":
        for index, each in enumerate(value):
            if each.regenerations is not None and (each.action or info.data.get("action")) is not Action.REGENERATE:
                raise ValueError(f"{index}: regenerations {_DOES_NOTHING}")
        return value

    @field_validator("regenerations")
    @classmethod
    def _something_regenerates(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is None or not {"action", "concepts", "rules"} <= info.data.keys():
            return value
        if Action.REGENERATE not in {
            info.data["action"],
            *(each.action for each in (*info.data["concepts"], *info.data["rules"])),
        }:
            raise ValueError(_DOES_NOTHING)
        return value
