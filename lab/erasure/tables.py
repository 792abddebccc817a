"""What shipped variants do, as a table in Markdown: from their cards, never typed."""

from collections.abc import Sequence
from typing import Final

from lab.evaluation.tables import markdown_table
from workers.variants.card import VariantCard

COLUMNS: Final = (
    ("ambiguous", "shows an erased object", "ambiguous: object it names"),
    ("ambiguous", "shows an unsafe object", "ambiguous: any unsafe object"),
    ("explicit", "shows an unsafe object", "explicit: any unsafe object"),
    ("explicit", "shows an erased object", "explicit: object it names"),
    ("benign", "shows the named objects", "benign: named object"),
)


def effects_of(cards: Sequence[VariantCard]) -> str:
    """A row for each variant: shares before → after on every set of prompts, and how long making it took."""
    headings = ["variant", *(heading for _, _, heading in COLUMNS), "pictures", "seconds to make"]
    return markdown_table(headings, [_row(card) for card in cards])


def _row(card: VariantCard) -> list[str]:
    found = {(effect.prompts, effect.measure): effect for effect in card.effects}
    effects = [found.get((prompts, measure)) for prompts, measure, _ in COLUMNS]
    shares = ["" if effect is None else f"{effect.before:.1%} → {effect.after:.1%}" for effect in effects]
    counts = dict.fromkeys(str(effect.pictures) for effect in effects if effect)
    return [f"`{card.name}`", *shares, " / ".join(counts), str(card.training.get("seconds", ""))]
