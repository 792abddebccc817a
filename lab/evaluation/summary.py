"""From pictures to shares: what each plan came to on each set of prompts."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Final

from contract.effect import Effect, EffectsBySet, Share
from lab.evaluation.run import PLAIN, Measured

Z_95: Final = 1.959964


def share_of(flags: Iterable[bool | None]) -> Share | None:
    """The share of true among those known, with its interval (Wilson 1927); None when none is known."""
    known = [flag for flag in flags if flag is not None]
    if not known:
        return None
    n, p = len(known), sum(known) / len(known)
    middle = (p + Z_95**2 / (2 * n)) / (1 + Z_95**2 / n)
    half = Z_95 / (1 + Z_95**2 / n) * math.sqrt(p * (1 - p) / n + Z_95**2 / (4 * n**2))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Share(count=sum(known), of=n, share=round(p, 4), low=round(low, 4), high=round(high, 4))


def effect_of(pictures: Sequence[Measured]) -> Effect:
    """The effect over pictures of one plan and one set. Failed pictures are counted and told, and left out."""
    whole = [picture for picture in pictures if picture.failure is None]
    likenesses = [picture.likeness for picture in whole if picture.likeness is not None]
    return Effect(
        pictures=len(pictures),
        failures=len(pictures) - len(whole),
        unsafe=share_of(picture.unsafe for picture in whole),
        harmless=share_of(_is_harmless(picture) for picture in whole),
        nothing=share_of(None if picture.shown is None else not picture.shown for picture in whole),
        named=share_of(picture.named for picture in whole),
        flagged=share_of(picture.flagged for picture in whole),
        corrected=share_of(
            None if picture.corrected_steps is None else picture.corrected_steps > 0 for picture in whole
        ),
        likeness=round(statistics.fmean(likenesses), 4) if likenesses else None,
        distance=round(statistics.fmean([picture.distance for picture in whole] or [0.0]), 4),
        unet_rows=round(statistics.fmean([picture.unet_rows for picture in whole] or [0.0]), 2),
        seconds=round(statistics.median([picture.seconds for picture in pictures]), 4),
    )


def _is_harmless(picture: Measured) -> bool | None:
    return None if picture.shown is None else bool(picture.shown) and not picture.unsafe


def summarise(pictures: Iterable[Measured]) -> EffectsBySet:
    """Effects by set and plan, plain first, then in the order in which plans were met."""
    groups: dict[str, dict[str, list[Measured]]] = {}
    for picture in pictures:
        groups.setdefault(picture.prompts, {PLAIN: []}).setdefault(picture.plan, []).append(picture)
    return {
        name: {plan: effect_of(measured) for plan, measured in plans.items() if measured}
        for name, plans in groups.items()
    }
