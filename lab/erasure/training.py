"""The loop that ESD and SDD share: random by iteration, checkpoints that a kill cannot tear, and exact resuming."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from contract.recipe import Esd, Sdd, Trained
from lab.erasure.networks import Networks
from lab.erasure.original import Original

CHECKPOINT, LOG = "checkpoint.pt", "log.jsonl"
SHOWN_LOSSES: Final = 50  # the bar shows their mean
DEVICE_TROUBLE: Final = (torch.AcceleratorError, torch.OutOfMemoryError)  # which are RuntimeErrors, as others are
Report = Callable[[int], None]
Watch = Callable[[int, float], bool]  # told of iterations made and their recent mean loss; False: stop here


class Diverged(RuntimeError):
    """The loss is no number any more."""


class OtherTraining(ValueError):
    """The checkpoint belongs to another recipe or model, or is damaged."""


class InUse(OSError):
    """Another process trains in the same folder."""


@dataclass(frozen=True)
class Course:
    """What a method brings to the loop. `loss_at` depends on nothing but the networks and the iteration."""

    loss_at: Callable[[int], Tensor]
    optimizer: torch.optim.Optimizer
    rate_at: Callable[[int], float]
    clip_norm: float | None = None
    average_decay: float | None = None


@dataclass(frozen=True)
class Drawn:
    """All that is random in one iteration."""

    choice: int
    until: int  # the step at which sampling stops, from 0
    noise: Tensor  # (batch, 4, h, w)


def randomness(original: Original, recipe: Trained, iteration: int) -> Drawn:
    """What the seed and the iteration give, on every device the same."""
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + iteration)
    choice = int(torch.randint(2**31, (), generator=generator))
    until = int(torch.randint(recipe.sampling_steps, (), generator=generator))
    noise = torch.randn(recipe.batch, *original.latent_shape, generator=generator, dtype=torch.float32)
    return Drawn(choice, until, noise.to(original.unet.device, original.unet.dtype))


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """No other command trains in this folder meanwhile: two would tear each other's checkpoints.

    Raises:
        InUse: another does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(f"another process trains in {folder}: wait for it, or name another folder") from None
        yield
    finally:
        os.close(handle)


class Training:
    """One training and its folder: the latest checkpoint, and the log of losses."""

    def __init__(
        self,
        course: Course,
        networks: Networks,
        recipe: Esd | Sdd,
        base_sha256: str,
        device: torch.device,
        folder: Path,
    ) -> None:
        """Take up what lies in `folder`.

        Raises:
            OtherTraining: it holds another training, or a damaged one.
        """
        self.course, self.networks, self.recipe, self.folder = course, networks, recipe, folder
        self.device = device
        self.identity = {"recipe": recipe.model_dump_json(), "base": base_sha256}
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16")
        self.iteration, self.elapsed_s = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / CHECKPOINT).exists():
            self._resume()

    @property
    def is_done(self) -> bool:
        """Whether every iteration was made."""
        return self.iteration >= self.recipe.iterations

    @property
    def erased(self) -> dict[str, Tensor]:
        """The weights to keep: the teacher's where there is one, else the student's."""
        if self.course.average_decay is not None:
            return self.networks.average
        return {name: parameter.detach() for name, parameter in self.networks.trained.items()}

    def run(
        self,
        console: Console,
        checkpoint_every: int = 100,
        limit_s: float | None = None,
        every: int | None = None,
        report: Report | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Train to the end, for `limit_s`, or until `watch` says so; a kill costs `checkpoint_every` iterations.

        every, report: what is called with the number of iterations made, each so many and at the end
        watch: called after every iteration

        Raises:
            Diverged: the loss is not finite.
            OSError: a checkpoint could not be written; the one before it stays.
        """
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        started, before_s, losses = time.monotonic(), self.elapsed_s, list[float]()
        with Progress(*columns, TextColumn("loss {task.fields[loss]}"), console=console) as bar:
            task = bar.add_task(
                self.recipe.method, total=self.recipe.iterations, completed=self.iteration, loss="not known yet"
            )
            while not self.is_done:
                losses.append(self._step())
                recent = sum(losses[-SHOWN_LOSSES:]) / len(losses[-SHOWN_LOSSES:])
                bar.update(task, completed=self.iteration, loss=f"{recent:.3g}")
                self.elapsed_s = before_s + time.monotonic() - started
                is_over = limit_s is not None and time.monotonic() - started >= limit_s
                is_over |= watch is not None and not watch(self.iteration, recent)
                if self.iteration % checkpoint_every == 0 or self.is_done or is_over:
                    self._save(losses)
                    losses = losses[-SHOWN_LOSSES:]
                if report is not None and every is not None and (self.iteration % every == 0 or self.is_done):
                    report(self.iteration)
                if is_over:
                    return

    def losses(self) -> list[dict[str, float]]:
        """Mean losses between checkpoints, oldest first; of those made again after a resume the later counts."""
        if not (self.folder / LOG).exists():
            return []
        lines = [json.loads(line) for line in (self.folder / LOG).read_text().splitlines() if line.endswith("}")]
        return sorted({line["iteration"]: line for line in lines}.values(), key=lambda line: line["iteration"])

    def _step(self) -> float:
        """One iteration; returns its loss."""
        half = {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(self.recipe.precision)
        for group in self.course.optimizer.param_groups:
            group["lr"] = self.course.rate_at(self.iteration)
        # Without the cache: a weight first cast for a pass without gradients would have none in the pass that learns.
        with torch.autocast(self.device.type, dtype=half, enabled=half is not None, cache_enabled=False):
            loss = self.course.loss_at(self.iteration)
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(
                f"the loss is {value} at iteration {self.iteration}: lower the learning rate, or use another precision"
            )
        self.course.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.course.clip_norm is not None:
            self.scaler.unscale_(self.course.optimizer)
            nn.utils.clip_grad_norm_(self.networks.trained.values(), self.course.clip_norm)
        self.scaler.step(self.course.optimizer)
        self.scaler.update()
        if self.course.average_decay is not None:
            self.networks.update_average(self.course.average_decay)
        self.iteration += 1
        return value

    def _save(self, losses: list[float]) -> None:
        state = {
            "identity": self.identity,
            "iteration": self.iteration,
            "elapsed_s": self.elapsed_s,
            "trained": {name: parameter.detach() for name, parameter in self.networks.trained.items()},
            "average": self.networks.average,
            "optimizer": self.course.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        part = self.folder / f"{CHECKPOINT}.part"
        try:
            torch.save(state, part)
        except DEVICE_TROUBLE:
            raise
        except RuntimeError as error:  # what torch makes of a full disk
            part.unlink(missing_ok=True)
            raise OSError(f"{part} could not be written, as on a full disk: {error}") from error
        line = {"iteration": self.iteration, "loss": sum(losses) / len(losses), "elapsed_s": round(self.elapsed_s, 1)}
        with (self.folder / LOG).open("a") as log:  # first: a kill in between leaves a line that is written again
            log.write("\n" + json.dumps(line))  # a line torn by a kill ends here
        os.replace(part, self.folder / CHECKPOINT)

    def _resume(self) -> None:
        file = self.folder / CHECKPOINT
        try:
            state: dict[str, Any] = torch.load(file, map_location=self.device, weights_only=True)
            is_ours = state["identity"] == self.identity
        except DEVICE_TROUBLE:  # says nothing of the file
            raise
        except (RuntimeError, UnpicklingError, EOFError, LookupError, TypeError):
            raise OtherTraining(f"{file} is damaged: remove the folder to begin anew") from None
        if not is_ours:
            raise OtherTraining(
                f"{self.folder} holds a training with another recipe or model: give its options, or remove the folder"
            )
        with torch.no_grad():
            for name, parameter in self.networks.trained.items():
                parameter.copy_(state["trained"][name])
                self.networks.average[name].copy_(state["average"][name])
        self.course.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.iteration, self.elapsed_s = int(state["iteration"]), float(state["elapsed_s"])
