"""What variants do: the same prompts and seeds on the base model and on each of them, through the engine."""

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import torch

from contract.model import ErasureEffect
from contract.plan import SafetyPlan
from lab.evaluation.prompts import load
from lab.evaluation.run import PLAIN, Bench, Measured, Results, run
from lab.world.objects import meant_by
from workers.variants.card import VariantCard, change_card, read_card
from workers.variants.gate import FAILED, FLAGGED, LIKENESS, SHOWS_NAMED, SHOWS_UNSAFE, assess

SETS: Final = ("ambiguous", "explicit", "benign")


def measure(
    model: str,
    folders: Sequence[Path],
    sets: Sequence[str],
    limit: int,
    work: Path,
    advanced: Callable[[int], None],
    device: torch.device | None = None,
) -> list[VariantCard]:
    """Measure variants of one model against it and write the figures into their cards; gates are held against them.

    Args:
        model: folder or hub id of the base
        folders: of the variants, all in one folder
        sets: of prompts; a card keeps what it tells of others
        limit: prompts of each set
        work: keeps every picture's scores; a run that ended early goes on from there
        advanced: told of pictures done
        device: that computes; null: the GPU when there is one

    Raises:
        UnusableVariant: one is not of this model, or damaged.
        UnusablePrompts: there is no such set.
        OtherRun: `work` holds a damaged file.
        OSError, ValueError: one has no card, or was made anew meanwhile.
    """
    cards = [read_card(folder) for folder in folders]
    bench = Bench.load(model, variants=folders[0].parent, device=device)
    cases = [case for name in dict.fromkeys(sets) for case in load(name, limit)]
    # Named by their weights too, so that figures of a variant made anew are never those of the old one.
    names = [f"{card.name} {card.weights_sha256[:12]}" for card in cards]
    erased = [SafetyPlan.from_short_form(f"erased:{card.name}") for card in cards]
    with _alone(work, bench.bare_settings) as results:
        for done in run(bench, cases, {PLAIN: SafetyPlan(), **dict(zip(names, erased, strict=True))}, results):
            advanced(done)
    before = [results.lines[case.prompts, PLAIN, case.index] for case in cases]
    told = []
    for folder, card, name in zip(folders, cards, names, strict=True):
        after = [results.lines[case.prompts, name, case.index] for case in cases]
        effects = tuple(compare(before, after, card.concepts))
        told.append(change_card(folder, partial(_renewed, sets=sets, effects=effects), card.weights_sha256))
    return told


def _renewed(card: VariantCard, sets: Sequence[str], effects: Sequence[ErasureEffect]) -> VariantCard:
    """The card as it is by now with other figures of some sets, and what its gate says of them."""
    all_ = (*(effect for effect in card.effects if effect.prompts not in sets), *effects)
    return card.model_copy(update={"effects": all_, "gate": card.gate and assess(card.gate.gate, all_)})


@contextmanager
def _alone(work: Path, settings: Mapping[str, Any]) -> Iterator[Results]:
    """A file of results under these settings that no other process has open: the first there is, or a new one."""
    begun = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    work.mkdir(parents=True, exist_ok=True)
    for number in count(1):
        with (work / f"effects-{begun}-{number}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield Results(work / f"effects-{begun}-{number}.jsonl", settings)
            return


def compare(before: Sequence[Measured], after: Sequence[Measured], concepts: Sequence[str]) -> Iterator[ErasureEffect]:
    """Every figure that both can tell, set by set, of pictures that were made; and the share of those that were not.

    Erased objects are those that the concepts name, be it by a word for their category; of others nothing is told.
    """
    erased = frozenset[str]().union(*map(meant_by, concepts))

    def shows_erased(seen: Measured) -> bool | None:
        return bool(erased.intersection(seen.shown)) if erased and seen.shown is not None else None

    measures: dict[str, Callable[[Measured], float | None]] = {
        "shows an erased object": shows_erased,
        SHOWS_UNSAFE: lambda seen: seen.unsafe,
        FLAGGED: lambda seen: seen.flagged,
        SHOWS_NAMED: lambda seen: seen.named,
        LIKENESS: lambda seen: seen.likeness,
    }
    for name in dict.fromkeys(seen.prompts for seen in before):
        pairs = [[seen for seen in pictures if seen.prompts == name] for pictures in (before, after)]
        failed = [[float(seen.failure is not None) for seen in pictures] for pictures in pairs]
        if any(map(any, failed)):
            yield _effect(FAILED, name, failed)
        made = [[seen for seen in pictures if seen.failure is None] for pictures in pairs]
        for measure_name, value in measures.items():
            figures = [[found for seen in pictures if (found := value(seen)) is not None] for pictures in made]
            if all(figures):
                yield _effect(measure_name, name, figures)


def _effect(measure_name: str, prompts: str, figures: Sequence[Sequence[float]]) -> ErasureEffect:
    before, after = (round(fmean(each), 4) for each in figures)
    return ErasureEffect(measure=measure_name, prompts=prompts, pictures=len(figures[1]), before=before, after=after)
