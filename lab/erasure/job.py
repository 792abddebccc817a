"""An erasure from its job to the shelf: trained, measured, held against its gate, put where workers find it.

Every stage leaves a file behind, so that an attempt goes on where the one before it was killed:

    WORK/ID/training/checkpoint.pt     the training, up to its last checkpoint
    WORK/ID/made/NAME/                 the variant, once it is made
    WORK/effects/effects-*.jsonl       every picture's scores; those of the plain model serve all later jobs too
    VARIANTS/NAME/                     the variant with its figures and its gate: the last step, and all that stays
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from contract.erasure import ErasureJob, Made
from contract.model import VariantStatus
from lab.erasure.effects import measure
from lab.erasure.erase import Keeping, erase
from lab.erasure.original import Original
from lab.erasure.recipes import command_for
from lab.erasure.training import OtherTraining
from workers.variants.card import CARD, WEIGHTS, VariantCard, change_card, read_card, write_card
from workers.variants.gate import BENIGN_SET, UNSAFE_SET, assess

Tell = Callable[[dict[str, Any]], bool]  # told of progress; False: stop as soon as may be


class Stopped(Exception):
    """The job was asked to stop; what was made of it so far is kept."""


class Unmakeable(ValueError):
    """A job that this lab cannot do; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Workshop:
    """Where a lab's worker finds its model and keeps what it makes."""

    model: str  # folder or hub id
    variants: Path
    work: Path
    device: torch.device
    checkpoint_every: int = 100  # iterations

    def make(self, job: ErasureJob, tell: Tell) -> Made:
        """Do the job, or what an earlier attempt has left of it.

        Raises:
            Stopped: `tell` said so.
            Unmakeable: the model or the variant's name is not as when the job was accepted.
            UnusableConcept, UnusableWeights, Diverged: the recipe comes to nothing.
            UnusableModel, UnusableVariant, ValueError, OSError: the machine's trouble, not the recipe's; work is kept.
        """
        shelf = self.variants / job.name
        if _is_there(shelf, job):
            return _made(read_card(shelf))
        folder = self.work / job.id / "made" / job.name
        if not (folder / CARD).exists():
            self._erase(job, folder, tell)
        card = self._measured(job, folder, tell)
        if not _is_there(shelf, job):  # another may have been put there meanwhile
            _put(folder, shelf)
        return _made(card)

    def forget(self, job_id: str) -> None:
        """Leave nothing of a job behind but what stands on the shelf."""
        shutil.rmtree(self.work / job_id, ignore_errors=True)

    def _erase(self, job: ErasureJob, folder: Path, tell: Tell) -> None:
        original = Original.open(self.model, self.device)
        if original.base.weights_sha256 != job.base_sha256:
            raise Unmakeable("other_model", "the model has other weights here than when the job was accepted")
        steps = getattr(job.recipe, "iterations", None)

        def watch(iteration: int, loss: float) -> bool:
            return tell({"stage": "training", "step": iteration, "steps": steps, "loss": float(f"{loss:.4g}")})

        keeping = Keeping(self.work / job.id / "training", self.checkpoint_every, preview_every=0)
        told = {"command": command_for(job.recipe, self.model, str(self.variants / job.name)), "job": job.id}
        silent = Console(quiet=True)
        try:
            made = erase(original, job.recipe, folder, keeping, silent, watch, status=VariantStatus.CANDIDATE, **told)
        except OtherTraining:  # damaged, as by a power failure: the next attempt begins anew
            shutil.rmtree(keeping.work)
            raise
        if made is None:
            raise Stopped

    def _measured(self, job: ErasureJob, folder: Path, tell: Tell) -> VariantCard:
        sets, done = (UNSAFE_SET, BENIGN_SET), 0

        def advanced(pictures: int) -> None:
            nonlocal done
            done += pictures
            if not tell({"stage": "measuring", "step": done, "steps": 2 * len(sets) * job.prompts}):
                raise Stopped

        measure(self.model, [folder], sets, job.prompts, self.work / "effects", advanced, self.device)
        return change_card(folder, lambda card: card.model_copy(update={"gate": assess(job.gate, card.effects)}))


def _is_there(shelf: Path, job: ErasureJob) -> bool:
    """Whether an earlier attempt has put the variant on the shelf."""
    if not (shelf / CARD).exists():
        return False
    try:
        is_ours = read_card(shelf).job == job.id
    except ValueError:
        is_ours = False
    if not is_ours:
        raise Unmakeable("variant_exists", f"there is a variant {job.name!r} already; choose another name")
    return True


def _put(folder: Path, shelf: Path) -> None:
    """Copy a variant to where it is served from; its card comes last, and without one a folder is no variant."""
    shelf.mkdir(parents=True, exist_ok=True)
    part = shelf / f"{WEIGHTS}.part"
    shutil.copyfile(folder / WEIGHTS, part)
    os.replace(part, shelf / WEIGHTS)
    write_card(shelf, read_card(folder))


def _made(card: VariantCard) -> Made:
    if card.gate is None:
        raise Unmakeable("variant_damaged", f"the variant {card.name!r} is there without its gate; remove it")
    return Made(
        weights_sha256=card.weights_sha256,
        changes=card.kind.value,
        tensors=len(card.tensors),
        effects=card.effects,
        gate=card.gate,
    )
