"""The safety plan: which method fills each of the five places where safety can act.

    place        when                                        methods
    prompt       before the prompt's embedding is used       safree
    weights      which UNet weights run                      erased (a variant's name)
    guidance     how noise predictions are combined          negative, sld, sega   (empty: classifier-free guidance)
    trajectory   the predicted clean latent                  unguidance
    output       the finished picture                        filter                (empty: scored, not acted on)

One method at each place, all places at once. Over HTTP a plan comes written out or in the short form
(`"sld:strong"`, `["erased:NAME", "sld:max"]`); `SafetyPlan.from_short_form` turns the second into the first.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    StrictBool,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)

from contract.concept_text import MAX_CONCEPTS as MAX_CONCEPTS
from contract.concept_text import ConceptText as ConceptText
from contract.concept_text import ConceptTexts as ConceptTexts
from contract.concept_text import distinct
from contract.sld import PRESETS, SldParameters
from contract.strict import Strict

ConceptName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*( [a-z0-9_-]+)*$", max_length=40)]
VariantName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]

MAX_STEPS = 150
DEFAULT_REGENERATIONS = 2


def joined(concepts: Sequence[str]) -> str:
    """Concepts as the one text that a guidance steers away from (Schramowski et al. 2023)."""
    return "an image showing " + ", ".join(concepts)


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


class Safree(Strict):
    """SAFREE: projects the prompt's token embeddings away from the concepts' subspace."""

    method: Literal["safree"] = "safree"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the published default.")


class Erased(Strict):
    """Erased weights: a variant of the model's UNet (ESD, SDD, UCE, or any diffusers UNet)."""

    method: Literal["erased"] = "erased"
    variant: VariantName


class Negative(Strict):
    """Negative prompt: the concept text stands in for the empty prompt of classifier-free guidance."""

    method: Literal["negative"] = "negative"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the published default.")


class Sld(Strict):
    """Safe Latent Diffusion. A preset sets every parameter; a parameter that is given replaces the preset's."""

    method: Literal["sld"]
    preset: Literal["weak", "medium", "strong", "max"] = "medium"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the published default.")
    warmup_steps: int | None = Field(None, ge=0, lt=MAX_STEPS)
    scale: float | None = Field(None, ge=0, le=20_000, description="s_S, the strength of the element-wise mask.")
    threshold: float | None = Field(None, ge=0, le=1, description="lambda, the mask's threshold.")
    momentum_scale: float | None = Field(None, ge=0, le=1, description="s_m.")
    momentum_beta: float | None = Field(None, ge=0, lt=1, description="beta.")

    @property
    def parameters(self) -> SldParameters:
        """The preset's numbers, with those that are given in their place."""
        own = {name: value for name in SldParameters.model_fields if (value := getattr(self, name)) is not None}
        return PRESETS[self.preset].model_copy(update=own)


class SegaConcept(Strict):
    """One edit of SEGA: a concept removed from the picture or added to it."""

    text: ConceptText
    direction: Literal["remove", "add"] = "remove"
    scale: float = Field(5.0, ge=0, le=100)
    threshold: float = Field(0.9, ge=0, lt=1, description="The quantile under which an element is left alone.")
    warmup_steps: int = Field(10, ge=0, lt=MAX_STEPS)
    cooldown_step: int | None = Field(None, ge=1, le=MAX_STEPS, description="The edit ends at this step; null: never.")


def _distinct_edits(edits: tuple[SegaConcept, ...]) -> tuple[SegaConcept, ...]:
    distinct(tuple(edit.text for edit in edits))
    return edits


SegaConcepts = Annotated[
    tuple[SegaConcept, ...], Field(min_length=1, max_length=MAX_CONCEPTS), AfterValidator(_distinct_edits)
]


class Sega(Strict):
    """SEGA, semantic guidance over several concepts."""

    method: Literal["sega"]
    concepts: SegaConcepts | None = None
    momentum_scale: float = Field(0.1, ge=0, le=1)
    momentum_beta: float = Field(0.4, ge=0, lt=1)


class Unguidance(Strict):
    """Safe sampling: the predicted clean latent is corrected while the concepts' probability is over a threshold."""

    method: Literal["unguidance"] = "unguidance"
    preset: Literal["single", "multi", "filter"] = "multi"
    concepts: ConceptTexts | None = Field(None, description="Concept texts; null takes the preset's.")
    threshold: float | None = Field(None, ge=-1, le=1, description="eta, the cosine from which a step is corrected.")
    strength: float | None = Field(None, ge=0, le=10_000, description="gamma, the length of the correction.")
    top_k: int | None = Field(None, ge=1, le=64, description="Mean of the K largest cosines; null: of all.")
    schedule: Literal["constant", "window", "linear"] | None = Field(
        None,
        description="How the strength runs: the same at every step, the same from start_step to end_step, or falling"
        " from the one to 0 at the other. Null takes the model's own: the same from the step on at which, by its"
        " calibration, predicted pictures are settled.",
    )
    start_step: int = Field(0, ge=0, lt=MAX_STEPS)
    end_step: int | None = Field(None, ge=1, le=MAX_STEPS, description="Null: the last step.")

    @field_validator("top_k")
    @classmethod
    def _there_are_as_many(cls, value: int | None, info: ValidationInfo) -> int | None:
        concepts = info.data.get("concepts")
        if value is not None and concepts is not None and value > len(concepts):
            raise ValueError(f"is more than the {len(concepts)} concepts; take fewer, or null for all of them")
        return value


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


Guidance = Annotated[Negative | Sld | Sega, Field(discriminator="method")]


class SafetyPlan(Strict):
    """One method at each place; an empty place runs nothing."""

    prompt: Safree | None = None
    weights: Erased | None = None
    guidance: Guidance | None = None
    trajectory: Unguidance | None = None
    output: Filter | None = None

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods the plan uses, in the order of the places."""
        places = (self.prompt, self.weights, self.guidance, self.trajectory, self.output)
        return tuple(place.method for place in places if place is not None)

    @property
    def names(self) -> dict[str, str]:
        """By method: the short form that means the same, with its preset; the method alone where there is none."""
        places = (self.prompt, self.weights, self.guidance, self.trajectory, self.output)
        names: dict[str, str] = {}
        for filled in (place for place in places if place is not None):
            place, field, _ = _SHORT_NAMES[filled.method]
            name = f"{filled.method}:{getattr(filled, field)}" if field else filled.method
            names[filled.method] = name if getattr(SafetyPlan.from_short_form(name), place) == filled else filled.method
        return names

    @classmethod
    def from_short_form(cls, names: str | Sequence[str]) -> Self:
        """Build a plan from `"none"`, `"sld:max"` or a list of such names.

        Raises:
            ValueError: for an unknown name or preset, two methods at one place, or `none` beside another.
        """
        chosen = [names] if isinstance(names, str) else list(names)
        if not chosen:
            raise ValueError('an empty list names no method; write "none" for plain generation')
        if "none" in chosen:
            if len(chosen) > 1:
                raise ValueError('"none" cannot be combined with other methods; leave it out')
            return cls()
        places: dict[str, dict[str, str]] = {}
        for name in chosen:
            place, method = _place_from_name(name)
            if place in places:
                raise ValueError(
                    f"{places[place]['method']!r} and {method['method']!r} both act at the place {place!r}; choose one"
                )
            places[place] = method
        return cls.model_validate(places)


# method name → (its place, the field that the part after the colon fills, the values that part may take)
_SHORT_NAMES: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "safree": ("prompt", None, ()),
    "erased": ("weights", "variant", ()),
    "negative": ("guidance", None, ()),
    "sld": ("guidance", "preset", ("weak", "medium", "strong", "max")),
    "sega": ("guidance", None, ()),
    "unguidance": ("trajectory", "preset", ("single", "multi", "filter")),
    "filter": ("output", "action", tuple(Action)),
}

METHODS: tuple[str, ...] = ("none", *_SHORT_NAMES)


def _place_from_name(name: str) -> tuple[str, dict[str, str]]:
    """`"sld:max"` → `("guidance", {"method": "sld", "preset": "max"})`."""
    method, colon, detail = name.partition(":")
    if method not in _SHORT_NAMES:
        raise ValueError(f"unknown safety method {method!r}; choose from: {', '.join(METHODS)}")
    place, field, values = _SHORT_NAMES[method]
    if not colon:
        if method == "erased":
            raise ValueError('"erased" needs the variant\'s name, as in "erased:NAME"; GET /variants lists them')
        return place, {"method": method}
    if field is None:
        raise ValueError(f"{method!r} has no presets; write {method!r} alone")
    if values and detail not in values:
        raise ValueError(f"unknown preset {detail!r} of {method!r}; choose from: {', '.join(values)}")
    return place, {"method": method, field: detail}
