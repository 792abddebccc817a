"""An engine that keeps the real one's promises and makes noise instead of pictures; the prompt says what goes wrong."""

import os
import re
import signal
import threading
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from contract.filter import Action
from contract.model import ModelInfo
from contract.request import Scheduler
from contract.verdict import ConceptScore
from workers.engine.picture import Failure, Outcome, PictureSpec, Progress

THRESHOLD = 0.2

INFO = ModelInfo(
    name="paced",
    source="none",
    weights_sha256="0" * 64,
    default_steps=4,
    default_guidance_scale=7.5,
    native_width_px=64,
    native_height_px=64,
    min_size_px=32,
    max_size_px=128,
    size_multiple_px=8,
    max_tokens=77,
    tokenizer_sha256="1" * 64,
    schedulers=tuple(Scheduler),
    methods=("filter",),
    actions=tuple(Action),
    concepts=("weapon",),
    default_concepts=("weapons",),
    scores_text_concepts=True,
)


def score(name: str, value: float) -> ConceptScore:
    """A score as a detector gives it."""
    margin = round(value - THRESHOLD, 3)
    return ConceptScore(
        name=name,
        category="violence",
        detector="test",
        detector_version="1",
        score=value,
        threshold=THRESHOLD,
        margin=margin,
        flagged=margin > 0,
    )


@dataclass
class _Row:
    spec: PictureSpec
    began: float
    step: int = 0


class PacedEngine:
    """Takes `step_s` per step for all pictures together. Any of these words in a prompt has its effect:

    weapon, unscored, misscored, nan, wrong-size, row-fails, other-method, endless: on the picture
    kills, raises, hangs: at step 2, on the process (SIGKILL) and on the engine
    cured-N: no weapon from the Nth regeneration on
    again-kills, again-row-fails, again-endless: the effect, on regenerations only

    `one|other` is a prompt for the first picture and one for the second.
    """

    def __init__(self, step_s: float = 0.005) -> None:
        self.step_s = step_s
        self._rows: list[_Row] = []
        self._canceled: set[str] = set()
        self._inbox = threading.Condition()
        self.release = threading.Event()  # ends a hang

    @property
    def is_idle(self) -> bool:
        """Nothing in flight."""
        with self._inbox:
            return not self._rows

    def submit(self, *specs: PictureSpec) -> None:
        """Ask for pictures."""
        with self._inbox:
            self._rows += [_Row(spec, time.monotonic()) for spec in specs]
            self._inbox.notify()

    def cancel(self, job_id: str) -> None:
        """Drop a job's pictures at the next step."""
        with self._inbox:
            if any(row.spec.job_id == job_id for row in self._rows):
                self._canceled.add(job_id)

    def wait_for_work(self, timeout_s: float) -> bool:
        """Block until there is something to do."""
        with self._inbox:
            return self._inbox.wait_for(lambda: bool(self._rows), timeout_s)

    def step(self) -> list[Progress | Outcome]:
        """One step of every picture."""
        with self._inbox:
            rows, canceled, self._canceled = list(self._rows), self._canceled, set()
        if not rows:
            return []
        time.sleep(self.step_s)
        events: list[Progress | Outcome] = []
        for row in rows:
            if (end := self._advance(row, canceled)) is None:
                step = min(row.step, row.spec.steps)
                events.append(Progress(row.spec.job_id, row.spec.index, step, row.spec.steps))
            else:
                events.append(end)
                with self._inbox:
                    self._rows.remove(row)
        return events

    def _advance(self, row: _Row, canceled: set[str]) -> Outcome | None:
        spec = row.spec
        if spec.job_id in canceled:
            return Outcome(spec, failure=Failure("canceled", "the job was canceled"))
        if spec.deadline_at is not None and spec.deadline_at.timestamp() < time.time():
            return Outcome(spec, failure=Failure("expired", "the deadline passed"))
        row.step += 1
        prompt = _prompt_of(spec)
        if row.step == 2 and "kills" in prompt:
            os.kill(os.getpid(), signal.SIGKILL)
        if row.step == 2 and "raises" in prompt:
            raise RuntimeError("the device is lost")
        if row.step == 2 and "hangs" in prompt:
            self.release.wait()
        if row.step < spec.steps or "endless" in prompt:
            return None
        if "row-fails" in prompt:
            return Outcome(spec, failure=Failure("row_failed", "a method failed"))
        return Outcome(
            spec,
            pixels=None if spec.views else _pixels(spec),
            scores=_scores(prompt),
            applied={"output": {"method": "other" if "other-method" in prompt else "filter"}},
            inference_s=time.monotonic() - row.began,
            unet_rows=2 * spec.steps,
            pictures_per_batch_mean=1.0,
        )


def _prompt_of(spec: PictureSpec) -> str:
    prompts = spec.prompt.split("|")
    prompt = prompts[spec.index % len(prompts)]
    if (cured := re.search(r"cured-(\d)", prompt)) and spec.regeneration >= int(cured[1]):
        prompt = prompt.replace("weapon", "harbour")
    return prompt.replace("again-", "") if spec.regeneration else re.sub(r"again-\S+", "", prompt)


def _pixels(spec: PictureSpec) -> NDArray[np.uint8]:
    height = spec.height // 2 if "wrong-size" in _prompt_of(spec) else spec.height
    return pixels_of(spec.seed, spec.width, height)


def pixels_of(seed: int, width: int, height: int) -> NDArray[np.uint8]:
    """The noise that a seed comes to, (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _scores(prompt: str) -> tuple[ConceptScore, ...]:
    if "unscored" in prompt:
        return ()
    if "misscored" in prompt:
        return (score("kitten", 0.1),)
    right = score("weapon", 0.31 if "weapon" in prompt else 0.1)
    return (right.model_copy(update={"score": float("nan")}),) if "nan" in prompt else (right,)
