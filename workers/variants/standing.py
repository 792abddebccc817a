"""Whether requests may ask for a variant: promoted when it has passed its gate, retired when it has served.

Both are written into its card, with when and why; workers see it without a restart.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from contract.model import VariantStatus
from workers.variants.card import CARD, StatusChange, VariantCard, change_card, held


class NotPromoted(ValueError):
    """A variant that has to stay as it is; the message says why and what to do."""


def promote(folder: Path, forced_because: str | None = None) -> VariantCard:
    """Let requests ask for a variant.

    Args:
        folder: the variant's
        forced_because: why it may be served although its gate says otherwise

    Raises:
        NotPromoted: it did not pass its gate, or was never held against one, or is available already.
        OSError, ValueError: it has no readable card.
    """
    return change_card(folder, lambda card: _promoted(card, forced_because))


def retire(folder: Path, reason: str) -> VariantCard:
    """Take a variant out of service; pictures that are being made with it are still finished.

    Raises:
        OSError, ValueError: it has no readable card.
    """
    return change_card(folder, lambda card: _moved(card, VariantStatus.RETIRED, reason))


def withdraw(folder: Path, job: str) -> None:
    """Remove a candidate that this erasure has put here, which nobody is to have after all; nothing when there is none,
    or when it was promoted meanwhile.

    Raises:
        OSError: it cannot be removed.
    """
    try:
        with held(folder) as card:
            if card.job == job and card.status is VariantStatus.CANDIDATE:
                (folder / CARD).unlink()  # first: without one a folder is no variant
                shutil.rmtree(folder)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # no card, or none that says whose it is
        pass


def _promoted(card: VariantCard, forced_because: str | None) -> VariantCard:
    if card.status is VariantStatus.AVAILABLE:
        raise NotPromoted(f"the variant {card.name!r} is available already")
    if forced_because is None and card.gate is None:
        raise NotPromoted(f"the variant {card.name!r} was held against no gate yet; do that first, or force it")
    if forced_because is None and card.gate is not None and not card.gate.passed:
        raise NotPromoted(
            f"the variant {card.name!r} did not pass its gate: {'; '.join(card.gate.findings)}."
            " Make it anew with other settings, or force it and say why it may be served"
        )
    has_passed = card.gate is not None and card.gate.passed
    reason = forced_because if forced_because is not None else "passed its gate"
    return _moved(card, VariantStatus.AVAILABLE, reason, is_forced=not has_passed)


def _moved(card: VariantCard, status: VariantStatus, reason: str, *, is_forced: bool = False) -> VariantCard:
    change = StatusChange(at=datetime.now(UTC), status=status, reason=reason, forced=is_forced)
    return card.model_copy(update={"status": status, "history": (*card.history, change)})
