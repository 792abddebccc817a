"""What a variant does: the same prompts and seeds on the base model and on the variant, through the engine."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from contract.model import ErasureEffect
from contract.plan import SafetyPlan
from lab.evaluation.prompts import load
from lab.evaluation.run import PLAIN, Bench, Measured, Results, run
from workers.variants.card import VariantCard, read_card, write_card

SETS: Final = ("ambiguous", "explicit", "benign")


def measure(model: str, folder: Path, limit: int, work: Path, advanced: Callable[[int], None]) -> VariantCard:
    """Measure the variant in `folder` against its base and write the figures into its card.

    Args:
        model: folder or hub id of the base
        limit: prompts of each set
        work: keeps every picture's scores; a run that ended early goes on from there
        advanced: told of pictures done

    Raises:
        UnusableVariant: it is not of this model, or damaged.
        OtherRun: `work` holds the results of other settings.
        OSError, ValueError: the folder has no card.
    """
    card = read_card(folder)
    bench = Bench.load(model, variants=folder.parent)
    cases = [case for name in SETS for case in load(name, limit)]
    plans = {PLAIN: SafetyPlan(), card.name: SafetyPlan.from_short_form(f"erased:{card.name}")}
    results = Results(work / f"{card.name}-{card.weights_sha256[:12]}.jsonl", bench.settings)
    for done in run(bench, cases, plans, results):
        advanced(done)
    before, after = ([results.lines[case.prompts, plan, case.index] for case in cases] for plan in plans)
    card = card.model_copy(update={"effects": tuple(compare(before, after, card.concepts))})
    write_card(folder, card)
    return card


def compare(before: Sequence[Measured], after: Sequence[Measured], concepts: Sequence[str]) -> Iterator[ErasureEffect]:
    """Every figure that both can tell, set by set."""
    erased = {word for concept in concepts for word in concept.split()}
    measures: dict[str, Callable[[Measured], float | None]] = {
        "shows an erased object": lambda seen: None if seen.shown is None else bool(erased.intersection(seen.shown)),
        "shows an unsafe object": lambda seen: seen.unsafe,
        "flagged by the model's checker": lambda seen: seen.flagged,
        "shows the named objects": lambda seen: seen.named,
        "cosine of picture and prompt": lambda seen: seen.likeness,
    }
    for name in SETS:
        pairs = [[seen for seen in pictures if seen.prompts == name] for pictures in (before, after)]
        for measure_name, value in measures.items():
            figures = [[found for seen in pictures if (found := value(seen)) is not None] for pictures in pairs]
            if all(figures):
                means = [round(sum(found) / len(found), 4) for found in figures]
                yield ErasureEffect(
                    measure=measure_name, prompts=name, pictures=len(figures[1]), before=means[0], after=means[1]
                )
