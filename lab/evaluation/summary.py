"""From pictures to shares: what each plan came to on each set of prompts."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lab.evaluation.run import PLAIN, Measured

Z_95: Final = 1.959964


@dataclass(frozen=True, slots=True)
class Share:
    """A share with its 95 % interval (Wilson 1927)."""

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share itself."""
        return self.count / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper end."""
        n, p = self.of, self.value
        middle = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
        half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def told(self) -> dict[str, float]:
        """For JSON."""
        low, high = self.interval
        return {
            "count": self.count,
            "of": self.of,
            "share": round(self.value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
        }

    @classmethod
    def of_flags(cls, flags: Iterable[bool | None]) -> "Share | None":
        """The share of true among those known; None when none is known."""
        known = [flag for flag in flags if flag is not None]
        return cls(sum(known), len(known)) if known else None


@dataclass(frozen=True, slots=True)
class Effect:
    """What one plan came to on one set of prompts. None: not to be known of this model or of these prompts."""

    pictures: int
    failures: int
    unsafe: Share | None  # something unsafe is shown
    harmless: Share | None  # something is shown, and nothing unsafe
    nothing: Share | None  # no object
    named: Share | None  # what the prompt names is shown
    flagged: Share | None  # by the model's own checker
    corrected: Share | None  # by the trajectory method, at one step at least
    likeness: float | None  # of picture and prompt, cosine
    distance: float  # from the plain picture, mean absolute difference in 0..1
    unet_rows: float  # per picture
    seconds: float  # per picture, median over chunks

    @classmethod
    def of(cls, pictures: Sequence[Measured]) -> "Effect":
        """The effect over pictures of one plan and one set. Failed pictures are counted and told, and left out."""
        whole = [picture for picture in pictures if picture.failure is None]
        likenesses = [picture.likeness for picture in whole if picture.likeness is not None]
        return cls(
            pictures=len(pictures),
            failures=len(pictures) - len(whole),
            unsafe=Share.of_flags(picture.unsafe for picture in whole),
            harmless=Share.of_flags(_is_harmless(picture) for picture in whole),
            nothing=Share.of_flags(None if picture.shown is None else not picture.shown for picture in whole),
            named=Share.of_flags(picture.named for picture in whole),
            flagged=Share.of_flags(picture.flagged for picture in whole),
            corrected=Share.of_flags(
                None if picture.corrected_steps is None else picture.corrected_steps > 0 for picture in whole
            ),
            likeness=round(statistics.fmean(likenesses), 4) if likenesses else None,
            distance=round(statistics.fmean([picture.distance for picture in whole] or [0.0]), 4),
            unet_rows=round(statistics.fmean([picture.unet_rows for picture in whole] or [0.0]), 2),
            seconds=round(statistics.median([picture.seconds for picture in pictures]), 4),
        )

    @property
    def told(self) -> dict[str, Any]:
        """For JSON; what is not known is left out."""
        values = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value.told if isinstance(value, Share) else value for name, value in values if value is not None}

    @classmethod
    def from_told(cls, told: dict[str, Any]) -> "Effect":
        """Back from JSON."""
        values = {name: told.get(name) for name in cls.__slots__}
        return cls(
            **{
                name: Share(value["count"], value["of"]) if isinstance(value, dict) else value
                for name, value in values.items()
            }
        )


def _is_harmless(picture: Measured) -> bool | None:
    return None if picture.shown is None else bool(picture.shown) and not picture.unsafe


Effects = dict[str, dict[str, Effect]]  # set → plan → effect


def summarise(pictures: Iterable[Measured]) -> Effects:
    """Effects by set and plan, plain first, then in the order in which plans were met."""
    groups: dict[str, dict[str, list[Measured]]] = {}
    for picture in pictures:
        groups.setdefault(picture.prompts, {PLAIN: []}).setdefault(picture.plan, []).append(picture)
    return {
        name: {plan: Effect.of(measured) for plan, measured in plans.items() if measured}
        for name, plans in groups.items()
    }


def told(effects: Effects) -> dict[str, Any]:
    """For JSON."""
    return {name: {plan: effect.told for plan, effect in plans.items()} for name, plans in effects.items()}


def from_told(content: dict[str, Any]) -> Effects:
    """Back from JSON."""
    return {name: {plan: Effect.from_told(effect) for plan, effect in plans.items()} for name, plans in content.items()}
