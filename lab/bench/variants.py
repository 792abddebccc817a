"""Rows of several erased weights in one batch against the same rows of one of them.

The variants change cross-attention's keys and values only, so all rows share the UNet's calls, each with its own
variant's keys and values. They are made here by UCE, one concept each.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import torch

from contract.plan import SafetyPlan
from contract.recipe import Uce
from lab.bench.engine import run_engine, specs_for
from lab.bench.interleaved import Run, Timing, time_interleaved
from lab.erasure import uce
from lab.erasure.original import Original
from workers import models
from workers.engine.engine import Engine, EngineLimits
from workers.variants.shelf import VariantShelf
from workers.variants.writing import write_variant

CONCEPTS: Final = ("knife", "sword", "bomb", "pill", "skull", "blood", "gun", "fire")  # of which each variant has one
MOST_BYTES: Final = 8 << 30


@dataclass(frozen=True)
class VariantComparison:
    """The same prompts and seeds, the rows spread over several variants or all of one."""

    variants: int
    pictures: int
    several: Timing
    one: Timing

    @property
    def ratio(self) -> float:
        """Median time over several variants over median time of one."""
        return self.several.median / self.one.median


def compare_variants(
    source: str, folder: Path, *, variants: int, pictures: int, steps: int, repeats: int
) -> VariantComparison:
    """Time both arms, interleaved, on `pictures` rows at once; `folder` takes the variants.

    Raises:
        ValueError: fewer pictures than variants, or more variants than concepts.
    """
    if not 1 < variants <= min(pictures, len(CONCEPTS)):
        raise ValueError(
            f"{variants} variants of {pictures} pictures: it takes 2 to {len(CONCEPTS)}, and no more than rows"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = models.load(source, name="bench", device=device)
    original = Original.open(source, torch.device("cpu"))
    names = CONCEPTS[:variants]
    for name in names:
        tensors = uce.erase(original, Uce(concepts=(name,)))
        told = {"method": "uce", "concepts": (name,), "base": original.base}
        write_variant(folder / name, tensors, original.unet.state_dict(), torch.float16, **told)
    shelf = VariantShelf(folder, model.parts, model.info.weights_sha256, MOST_BYTES)
    specs = specs_for(model.info, range(pictures), steps)

    def arm(names: tuple[str, ...]) -> Run:
        asked = (names[row % len(names)] for row in range(pictures))
        erased = [
            replace(spec, plan=SafetyPlan.from_short_form([f"erased:{name}", "filter"]), weights=shelf.get(name))
            for spec, name in zip(specs, asked, strict=True)
        ]
        engine = Engine(model.parts, model.methods, EngineLimits(pictures_in_flight=pictures))
        return partial(run_engine, engine, erased)

    timings = time_interleaved({"several": arm(names), "one": arm(names[:1])}, repeats)
    return VariantComparison(variants, pictures, timings["several"], timings["one"])
