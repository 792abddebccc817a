"""Finished rows and uploads into outcomes: decode, check, score. No pixels leave without their scores."""

import logging
import time
from collections.abc import Sequence

import torch

from contract.filter import Filter
from contract.verdict import ConceptScore
from workers.engine.model import EngineModel, to_pixels
from workers.engine.picture import Failure, Outcome, PictureSpec, Stage
from workers.engine.row import Row, failure_from
from workers.safety.protocol import Pictures

log = logging.getLogger(__name__)


class InvalidOutput(Exception):
    """A decoded picture holds values that are not finite. It would pass a stock checker."""


class DetectorFailure(Exception):
    """A detector raised, or gave too few scores."""


def judge(rows: Sequence[Row], model: EngineModel) -> list[Outcome]:
    """Finished rows of one shape → their outcomes. A batch that fails is taken again row by row, so that one row's
    fault stays its own.

    Raises:
        torch.AcceleratorError: the device is lost.
    """
    try:
        return _judge_together(rows, model)
    except torch.AcceleratorError:
        raise
    except Exception as error:  # noqa: BLE001 - fail closed: a picture that cannot be judged is withheld
        model.free_memory()
        if len(rows) > 1:
            return [outcome for row in rows for outcome in judge([row], model)]
        row = rows[0]
        match error:
            case InvalidOutput():
                row.failure = Failure("invalid_output", str(error))
            case DetectorFailure():
                log.warning("a picture could not be judged: %s", error)
                row.failure = Failure("detector_error", f"the picture could not be judged: {error}")
            case _:
                row.failure = failure_from(error)
        return [row.outcome()]


def _judge_together(rows: Sequence[Row], model: EngineModel) -> list[Outcome]:
    for row in rows:
        row.enter("decode")
    decoded = model.decode(torch.stack([row.latents for row in rows]))
    if not torch.isfinite(decoded).all():
        raise InvalidOutput("the picture holds values that are not finite")
    pixels = to_pixels(decoded)
    outputs = [row.spec.plan.output for row in rows]
    for row in rows:
        row.enter("judge")
    scores = _scored(pixels, outputs, model)
    return [
        row.outcome(model.detector.describe(output), pixels=picture, scores=picture_scores)
        for row, output, picture, picture_scores in zip(rows, outputs, pixels, scores, strict=True)
    ]


def judge_uploads(specs: Sequence[PictureSpec], model: EngineModel) -> list[Outcome]:
    """Uploads → their outcomes, each as the worst of its views. A batch that fails is taken again one by one.

    Raises:
        torch.AcceleratorError: the device is lost.
    """
    began = time.time()
    views = [view for spec in specs for view in spec.views]
    outputs = [spec.plan.output for spec in specs for _ in spec.views]
    try:
        scores = iter(_scored(views, outputs, model))
    except DetectorFailure as error:
        if len(specs) > 1:
            return [outcome for spec in specs for outcome in judge_uploads([spec], model)]
        log.warning("an upload could not be judged: %s", error)
        return [Outcome(specs[0], failure=Failure("detector_error", f"the picture could not be judged: {error}"))]
    stage = Stage("judge", began, time.time())
    return [
        Outcome(
            spec,
            scores=_worst([next(scores) for _ in spec.views]),
            applied={"output": model.detector.describe(spec.plan.output)},
            inference_s=stage.seconds,
            stages=(stage,),
        )
        for spec in specs
    ]


def _scored(pictures: Pictures, outputs: Sequence[Filter | None], model: EngineModel) -> list[tuple[ConceptScore, ...]]:
    """Each picture's scores.

    Raises:
        DetectorFailure: they are not complete.
    """
    try:
        scores = model.detector.score(pictures, outputs)
    except torch.AcceleratorError:
        raise
    except Exception as error:
        raise DetectorFailure(str(error)) from error
    if len(scores) != len(outputs) or not all(scores):
        raise DetectorFailure("the detector left a picture without scores")
    return scores


def _worst(views: Sequence[tuple[ConceptScore, ...]]) -> tuple[ConceptScore, ...]:
    """Of every concept the score furthest over its threshold."""
    return tuple(max(scores, key=lambda score: score.margin) for scores in zip(*views, strict=True))
