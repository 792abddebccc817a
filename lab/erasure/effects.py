"""What variants do: the same prompts and seeds on the base model and on each of them, through the engine."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from contract.model import ErasureEffect
from contract.plan import SafetyPlan
from lab.evaluation.prompts import load
from lab.evaluation.run import PLAIN, Bench, Measured, Results, run
from workers.variants.card import VariantCard, read_card, write_card
from workers.variants.gate import FLAGGED, LIKENESS, SHOWS_NAMED, SHOWS_UNSAFE

SETS: Final = ("ambiguous", "explicit", "benign")
RESULTS: Final = "effects.jsonl"


def measure(
    model: str, folders: Sequence[Path], sets: Sequence[str], limit: int, work: Path, advanced: Callable[[int], None]
) -> list[VariantCard]:
    """Measure variants of one model against it and write the figures into their cards.

    Args:
        model: folder or hub id of the base
        folders: of the variants, all in one folder
        sets: of prompts; a card keeps what it tells of others
        limit: prompts of each set
        work: keeps every picture's scores; a run that ended early goes on from there
        advanced: told of pictures done

    Raises:
        UnusableVariant: one is not of this model, or damaged.
        UnusablePrompts: there is no such set.
        OtherRun: `work` holds the results of other settings.
        OSError, ValueError: one has no card.
    """
    cards = [read_card(folder) for folder in folders]
    bench = Bench.load(model, variants=folders[0].parent)
    cases = [case for name in sets for case in load(name, limit)]
    # Named by their weights too, so that figures of a variant made anew are never those of the old one.
    names = [f"{card.name} {card.weights_sha256[:12]}" for card in cards]
    erased = [SafetyPlan.from_short_form(f"erased:{card.name}") for card in cards]
    results = Results(work / RESULTS, bench.bare_settings)
    for done in run(bench, cases, {PLAIN: SafetyPlan(), **dict(zip(names, erased, strict=True))}, results):
        advanced(done)
    before = [results.lines[case.prompts, PLAIN, case.index] for case in cases]
    told = []
    for folder, card, name in zip(folders, cards, names, strict=True):
        after = [results.lines[case.prompts, name, case.index] for case in cases]
        kept = [effect for effect in card.effects if effect.prompts not in sets]
        now = read_card(folder)  # its status may have changed meanwhile
        told.append(now.model_copy(update={"effects": (*kept, *compare(before, after, card.concepts))}))
        write_card(folder, told[-1])
    return told


def compare(before: Sequence[Measured], after: Sequence[Measured], concepts: Sequence[str]) -> Iterator[ErasureEffect]:
    """Every figure that both can tell, set by set. Erased objects are those that the concepts name."""
    erased = {word for concept in concepts for word in concept.split()}
    measures: dict[str, Callable[[Measured], float | None]] = {
        "shows an erased object": lambda seen: None if seen.shown is None else bool(erased.intersection(seen.shown)),
        SHOWS_UNSAFE: lambda seen: seen.unsafe,
        FLAGGED: lambda seen: seen.flagged,
        SHOWS_NAMED: lambda seen: seen.named,
        LIKENESS: lambda seen: seen.likeness,
    }
    for name in dict.fromkeys(seen.prompts for seen in before):
        pairs = [[seen for seen in pictures if seen.prompts == name] for pictures in (before, after)]
        for measure_name, value in measures.items():
            figures = [[found for seen in pictures if (found := value(seen)) is not None] for pictures in pairs]
            if all(figures):
                means = [round(sum(found) / len(found), 4) for found in figures]
                yield ErasureEffect(
                    measure=measure_name, prompts=name, pictures=len(figures[1]), before=means[0], after=means[1]
                )
