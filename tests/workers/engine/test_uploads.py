"""Uploads in the engine: judged between the steps of pictures that are made, several at once, worst view first."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from contract.filter import Filter
from contract.verdict import ConceptScore
from tests import engines
from tests.workers.safety.faulty import FAULTS, INFO, LIMIT_S, Colours
from workers.engine.engine import EngineLimits
from workers.engine.picture import Outcome, PictureSpec, Progress
from workers.models import LoadedModel
from workers.safety.detectors.panel import Panel
from workers.safety.protocol import Pictures


def grey(value: int, side: int = 32) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def upload(index: int, *views: np.ndarray) -> PictureSpec:
    return replace(engines.spec(index, steps=1), job_id=f"upload-{index}", views=views)


class Counting:
    """The panel, and how many views each call had."""

    def __init__(self, panel: Panel) -> None:
        self.panel, self.calls = panel, list[int]()

    def score(self, pixels: Pictures, outputs: Sequence[Filter | None]) -> list[tuple[ConceptScore, ...]]:
        self.calls.append(len(pixels))
        return self.panel.score(pixels, outputs)

    def describe(self, output: Filter | None) -> dict[str, object]:
        return self.panel.describe(output)


def test_uploads_of_any_size_share_calls_and_come_out_while_others_are_made(tiny_model: LoadedModel) -> None:
    counting = Counting(Panel(tiny_model.detector, [Colours()]))
    running = engines.engine(tiny_model, EngineLimits(pictures_judged=4), replace(tiny_model.parts, detector=counting))
    running.submit(engines.spec(9, steps=6))
    running.submit(*(upload(i, grey(20 * i, 24 + 8 * i)) for i in range(6)))
    events = [running.step() for _ in range(2)]
    outcomes = [[event for event in step if isinstance(event, Outcome)] for step in events]
    assert [[one.spec.index for one in step] for step in outcomes] == [[0, 1, 2, 3], [4, 5]]
    assert counting.calls == [4, 2]
    assert all(any(isinstance(event, Progress) for event in step) for step in events)  # the other went on
    for one in (one for step in outcomes for one in step):
        assert one.scores[-2].score == pytest.approx(20 * one.spec.index / 255, abs=1e-6)
        assert one.pixels is None
        assert one.applied["output"]["method"] == "filter"
    assert [one.failure for one in engines.run(running)] == [None]


def test_of_several_views_the_worst_counts(tiny_model: LoadedModel) -> None:
    panel = Panel(tiny_model.detector, [Colours()])
    views = [grey(value) for value in (10, 200, 90)]
    [outcome] = engines.run(
        engines.engine(tiny_model, parts=replace(tiny_model.parts, detector=panel)), [upload(0, *views)]
    )
    alone = [panel.score([view], [None])[0] for view in views]
    for index, score in enumerate(outcome.scores):
        assert score.margin == max(one[index].margin for one in alone)
    assert outcome.scores[-1].detector == INFO.name


@pytest.mark.parametrize("name", ["raises", "gives NaN", "gives too few scores"])
def test_an_upload_that_cannot_be_judged_is_an_error_and_its_neighbours_are_not(
    tiny_model: LoadedModel, name: str
) -> None:
    poison = grey(77)
    panel = Panel(tiny_model.detector, [Colours(FAULTS[name], lambda view: np.array_equal(view, poison))], LIMIT_S * 20)
    parts = replace(tiny_model.parts, detector=panel)
    found = engines.run(
        engines.engine(tiny_model, parts=parts), [upload(0, grey(1)), upload(1, poison), upload(2, grey(2))]
    )
    assert [one.failure.code if one.failure else None for one in found] == [None, "detector_error", None]
    assert not found[1].scores


def test_canceled_uploads_are_not_looked_at(tiny_model: LoadedModel) -> None:
    running = engines.engine(tiny_model)
    running.submit(upload(0, grey(1)), upload(1, grey(2)))
    running.cancel("upload-0")
    found = engines.run(running)
    assert [one.failure.code if one.failure else None for one in found] == ["canceled", None]
