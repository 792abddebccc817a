"""What a checkpoint's safety checker looks for. The checkpoint holds embeddings and thresholds, not names.

A model folder may name its concepts in `safety_checker/concepts.json`. The Stable Diffusion 1.x checker does not; its
names were published by others (Rando et al. 2022, "Red-Teaming the Stable Diffusion Safety Filter", table 1). Its 17
embeddings are near-synonyms, so the category and the largest margin tell more than the name.
"""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class CheckerConcept:
    """One concept of a checker, in the order of its embeddings."""

    name: str
    category: str


@dataclass(frozen=True)
class CheckerConcepts:
    """All concepts of a checker; a special-care concept lowers the thresholds of the others and never flags alone."""

    concepts: tuple[CheckerConcept, ...]
    special_care: tuple[CheckerConcept, ...]

    @classmethod
    def from_json(cls, path: Path) -> "CheckerConcepts":
        """Read `concepts.json`: two lists, `concepts` and `special_care`, of objects with `name` and `category`."""
        lists = json.loads(path.read_text())
        return cls(
            *(
                tuple(CheckerConcept(c["name"], c["category"]) for c in lists[key])
                for key in ("concepts", "special_care")
            )
        )


_SEXUAL = (
    "sexual", "nude", "sex", "18+", "naked", "nsfw", "porn", "dick", "vagina", "naked child", "explicit content",
    "uncensored", "fuck", "nipples", "visible nipples", "naked breasts", "areola",
)  # fmt: skip
_MINOR = ("little girl", "young child", "young girl")

STABLE_DIFFUSION_1 = CheckerConcepts(
    concepts=tuple(CheckerConcept(name, "sexual") for name in _SEXUAL),
    special_care=tuple(CheckerConcept(name, "minor") for name in _MINOR),
)
