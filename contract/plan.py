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
from typing import Self

from contract.filter import Action, Filter
from contract.steering import Erased, Guidance, Safree, Unguidance
from contract.strict import Strict

Method = Safree | Erased | Guidance | Unguidance | Filter


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
        return tuple(method.method for method in self._filled)

    @property
    def names(self) -> dict[str, str]:
        """By method: the short form that means the same, with its preset; the method alone where there is none."""
        names: dict[str, str] = {}
        for filled in self._filled:
            place, field, _ = _SHORT_NAMES[filled.method]
            name = f"{filled.method}:{getattr(filled, field)}" if field else filled.method
            names[filled.method] = name if getattr(SafetyPlan.from_short_form(name), place) == filled else filled.method
        return names

    @property
    def _filled(self) -> tuple[Method, ...]:
        places = (self.prompt, self.weights, self.guidance, self.trajectory, self.output)
        return tuple(place for place in places if place is not None)

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
