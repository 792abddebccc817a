"""Jobs drawn: what is on record is on the figure, whatever the concepts are called and however many there are."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from redis import Redis

from contract import keys
from contract.job import Job
from contract.result import JobError, JobView, Picture, Result, Status
from contract.steps import GuidanceRecord, TrajectoryRecord
from contract.verdict import Verdict
from service.explanation.figure import CORRECTED, figure, png, spread
from service.explanation.panels import MOST_BARS, MOST_CURVES, Explanation
from tests.service import parts
from tests.service.conftest import GatewayProcess
from tests.service.test_bad_input import problem
from tests.service.test_jobs import posted

JOB = parts.some_job(seeds=tuple(range(41, 57)), steps=5)
STEPS = 5
TRAJECTORY = TrajectoryRecord(
    threshold=0.23,
    scores={"a skull": (0.1, 0.3, 0.25, 0.2, 0.1), "blood": (0.0, 0.1, None, 0.1, 0.05)},
    corrected_steps=(1, 2),
    gradient_norms=(0.5, 0.7),
)
GUIDANCE = GuidanceRecord(push=(0.0, 0.0, 0.02, 0.03, 0.04), share=(0.0, 0.0, 0.9, 0.8, 0.7))


def explained(*pictures: Picture, status: Status = Status.SUCCEEDED) -> Explanation:
    view = JobView(
        id=JOB.id, status=status, created_at=JOB.created_at, images=pictures, safety=parts.result(JOB, status).safety
    )
    explanation = Explanation.of(view)
    assert explanation is not None
    return explanation


def axes_of(drawn: Figure, label: str) -> Axes:
    [axes] = [axes for axes in drawn.axes if axes.get_label() == label]
    return axes


def curve(axes: Axes, label: str) -> list[float]:
    [line] = [line for line in axes.lines if line.get_label() == label]
    return [float(y) for y in np.asarray(line.get_ydata(), dtype=float)]


def words(drawn: Figure) -> list[str]:
    return [text.get_text() for text in drawn.texts]


def opened(file: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(file))
    picture.load()
    return picture


def scores_of(count: int, steps: int) -> TrajectoryRecord:
    scores = {f"concept {i}": tuple(i / 100 + step / 1000 for step in range(steps)) for i in range(count)}
    return TrajectoryRecord(threshold=0.5, scores=scores, corrected_steps=(0,), gradient_norms=(1.0,))


def test_the_scores_the_threshold_and_the_corrections_are_on_the_figure() -> None:
    drawn = figure(explained(parts.picture(JOB, 0, trajectory=TRAJECTORY)))
    axes = axes_of(drawn, "0 scores")
    assert curve(axes, "a skull") == [0.1, 0.3, 0.25, 0.2, 0.1]
    assert np.isnan(curve(axes, "blood")).tolist() == [False, False, True, False, False]
    assert curve(axes, "threshold") == [0.23, 0.23]
    [bands] = [each for each in axes.collections if each.get_label() == "corrected"]
    assert [path.get_extents().x0 for path in bands.get_paths()] == [0.5, 1.5]
    norms = axes_of(drawn, "0 gradient norm").patches
    assert [(bar.get_x() + bar.get_width() / 2, bar.get_height()) for bar in norms] == [(1, 0.5), (2, 0.7)]
    assert {"a skull", "blood", "threshold 0.23", "corrected at 2 of 5 steps"} <= {*words(drawn)}


def test_the_guidances_push_and_share_are_on_the_figure() -> None:
    drawn = figure(explained(parts.picture(JOB, 0, guidance=GUIDANCE)))
    assert curve(axes_of(drawn, "0 push"), "mean |γ|") == list(GUIDANCE.push)
    [share] = axes_of(drawn, "0 share").lines
    assert np.asarray(share.get_ydata()).tolist() == [0.0, 0.0, 90.0, 80.0, 70.0]
    assert "from step 2 to step 4, mean |γ| at most 0.04" in words(drawn)


def test_a_plain_job_shows_final_scores_thresholds_margins_and_the_verdict() -> None:
    scores = (parts.score(0.4, name="skull"), parts.score(-0.1, name="pill", threshold=0.1))
    blocked = parts.picture(JOB, 0, Verdict.BLOCKED, concepts=scores, reasons=("death: 'skull' scored 0.4",))
    drawn = figure(explained(blocked, status=Status.BLOCKED))
    axes = axes_of(drawn, "0 final scores")
    assert [bar.get_width() for bar in axes.patches] == [0.4, -0.1]
    assert [line.get_xdata()[0] for line in axes.lines if line.get_label() == "threshold"] == [0.2, 0.1]
    shown = ["blocked", "picture 0, seed 41", "death: 'skull' scored 0.4", "skull", "+0.200 flagged", "-0.200"]
    assert {*shown} <= {*words(drawn)}
    assert not [axes for axes in drawn.axes if "scores" in axes.get_label() and axes.get_label() != "0 final scores"]


def test_of_many_concepts_the_most_suspect_are_drawn_and_the_rest_is_counted() -> None:
    finals = tuple(parts.score(i / 100, name=f"concept {i}") for i in range(64))
    drawn = figure(explained(parts.picture(JOB, 0, Verdict.BLOCKED, trajectory=scores_of(64, 150), concepts=finals)))
    axes = axes_of(drawn, "0 scores")
    shown = [line.get_label() for line in axes.lines if line.get_label() != "threshold"]
    assert shown == [f"concept {i}" for i in range(63, 63 - MOST_CURVES, -1)]
    assert len(axes_of(drawn, "0 final scores").patches) == MOST_BARS
    assert f"{64 - MOST_CURVES} more" in words(drawn)
    assert any(f"{64 - MOST_BARS} further below left out" in text for text in words(drawn))
    [rest] = [each for each in axes.collections if each.get_label() == "others"]
    assert rest.get_paths()[0].get_extents().y1 == pytest.approx((63 - MOST_CURVES) / 100 + 0.149)


def test_a_concept_has_one_colour_in_all_pictures_and_all_share_their_scales() -> None:
    other = TRAJECTORY.model_copy(update={"scores": {"blood": (0.9,), "a skull": (-0.3,)}})
    drawn = figure(explained(parts.picture(JOB, 0, trajectory=TRAJECTORY), parts.picture(JOB, 1, trajectory=other)))
    first, second = axes_of(drawn, "0 scores"), axes_of(drawn, "1 scores")
    assert [(line.get_label(), line.get_color()) for line in first.lines] == [
        (line.get_label(), line.get_color()) for line in second.lines
    ]
    assert first.get_ylim() == second.get_ylim()
    assert first.get_xlim() == second.get_xlim()


def test_sixteen_pictures_of_64_concepts_and_150_steps_are_drawn_in_seconds() -> None:
    finals = tuple(parts.score(i / 100, name=f"concept {i}") for i in range(64))
    guidance = GuidanceRecord(push=(0.1,) * 150, share=(0.5,) * 150)
    common: dict[str, Any] = {"trajectory": scores_of(64, 150), "guidance": guidance, "concepts": finals}
    explanation = explained(*(parts.picture(JOB, i, Verdict.BLOCKED, **common) for i in range(16)))
    began = time.process_time()
    picture = opened(png(explanation))
    assert time.process_time() - began < 20
    assert picture.width <= 1680
    assert picture.height <= 6500


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x^2$", "$x^2$"),
        ("$\\frac{broken", "$\\frac{broken"),
        ("two\nlines\tand tab", "two lines and tab"),
        ("猫 🐈", "\\u732b \\U0001f408"),
        ("a\u202eb\u200b", "a\\u202eb\\u200b"),
        ("кошка é ﬁ", "кошка é ﬁ"),
        ("_nolegend_", "_nolegend_"),
        ("%s {0} \\", "%s {0} \\"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_names_are_shown_as_they_are_or_by_their_code(name: str, shown: str) -> None:
    trajectory = TRAJECTORY.model_copy(update={"scores": {name: (0.1, 0.2)}})
    explanation = explained(parts.picture(JOB, 0, trajectory=trajectory, concepts=(parts.score(name=name),)))
    drawn = figure(explanation)
    assert words(drawn).count(shown) == 2
    assert not any(text.get_parse_math() for text in drawn.texts)
    assert opened(png(explanation)).width == 1120


@pytest.mark.parametrize("letter", ["W", "i", "猫", "$"])
def test_a_name_of_any_length_is_cut_to_its_place(letter: str) -> None:
    trajectory = TRAJECTORY.model_copy(update={"scores": {letter * 300: (0.1, 0.2)}})
    reasons = (letter * 4000,)
    explanation = explained(parts.picture(JOB, 0, Verdict.BLOCKED, trajectory=trajectory, reasons=reasons))
    drawn = figure(explanation)
    long = [text for text in drawn.texts if text.get_text().endswith("…")]
    assert len(long) == 2
    for text in long:
        assert text.get_window_extent().x1 <= drawn.bbox.x1


def test_numbers_that_are_missing_leave_gaps() -> None:
    trajectory = TRAJECTORY.model_copy(update={"scores": {"a": (None, None)}, "gradient_norms": (None, None)})
    guidance = GuidanceRecord(push=(None, 0.1), share=(None, 0.5))
    empty = TrajectoryRecord(threshold=0.2, scores={"a": ()}, corrected_steps=(), gradient_norms=())
    error = JobError(code="invalid_output", message="The picture holds values that are not finite.")
    pictures = (
        parts.picture(JOB, 0, Verdict.ERROR, trajectory=trajectory, guidance=guidance, concepts=(), error=error),
        parts.picture(JOB, 1, Verdict.ERROR, trajectory=empty, guidance=GuidanceRecord(push=(), share=()), concepts=()),
    )
    drawn = figure(explained(*pictures, status=Status.FAILED))
    assert error.message in words(drawn)
    assert "no push at any step" in words(drawn)
    opened(png(explained(*pictures, status=Status.FAILED)))


def test_labels_keep_their_distance_and_their_order() -> None:
    assert spread([10, 11, 50], 16, 0, 100) == [10, 26, 50]
    assert spread([99, 98, 97], 16, 0, 100) == [100, 84, 68]
    assert spread([5, -20], 16, 0, 100) == [16, 0]
    assert spread([], 16, 0, 100) == []


class TestOverHttp:
    def finished(self, http: httpx.Client, redis: "Redis", status: Status, **changes: Any) -> tuple[str, Job]:
        job_id = posted(http)
        attempt, job = parts.take(redis, job_id)
        parts.commit(redis, job_id, attempt, parts.result(job, status, parts.picture(job, 0, **changes)))
        return job_id, job

    def test_a_finished_job_is_drawn(self, http: httpx.Client, redis: "Redis") -> None:
        job_id, _ = self.finished(http, redis, Status.SUCCEEDED, trajectory=TRAJECTORY, guidance=GUIDANCE)
        answer = http.get(f"/jobs/{job_id}/explanation.png")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/png")
        assert answer.headers["Cache-Control"] == "private"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        picture = opened(answer.content).convert("RGB")
        assert picture.size == (1680, 476)
        colours = {f"#{r:02x}{g:02x}{b:02x}" for _, (r, g, b) in picture.getcolors(picture.width * picture.height)}
        assert {CORRECTED, "#0072b2", "#d55e00", "#fbfaf7"} <= colours
        again = {"If-None-Match": answer.headers["ETag"]}
        assert http.get(f"/jobs/{job_id}/explanation.png", headers=again).status_code == 304
        assert http.get(f"/jobs/{job_id}/explanation.png").content == answer.content

    def test_a_withheld_picture_is_explained_without_its_pixels(
        self, http: httpx.Client, redis: "Redis", gateway: GatewayProcess
    ) -> None:
        blocked = {"verdict": Verdict.BLOCKED, "concepts": (parts.score(0.4),)}
        job_id, job = self.finished(http, redis, Status.BLOCKED, **blocked)
        bare = http.get(f"/jobs/{job_id}/explanation.png").content
        parts.store_picture(gateway.pictures, job, 1, 0)
        assert http.get(f"/jobs/{job_id}/explanation.png").content == bare

    def test_an_unfinished_job_is_not_ready(self, http: httpx.Client, redis: "Redis") -> None:
        job_id = posted(http)
        answer = http.get(f"/jobs/{job_id}/explanation.png")
        assert (answer.status_code, problem(answer)["code"]) == (404, "picture_not_ready")
        parts.take(redis, job_id)
        assert "running" in http.get(f"/jobs/{job_id}/explanation.png").json()["detail"]

    def test_a_job_that_failed_before_any_score_says_so(self, http: httpx.Client, redis: "Redis") -> None:
        job_id = posted(http)
        attempt, _ = parts.take(redis, job_id)
        error = JobError(code="row_failed", message="The engine gave up.")
        parts.commit(redis, job_id, attempt, Result(status=Status.FAILED, error=error))
        answer = http.get(f"/jobs/{job_id}/explanation.png")
        assert (answer.status_code, problem(answer)["code"]) == (404, "nothing_to_draw")
        assert "failed" in answer.json()["detail"]
        assert "The engine gave up." in answer.json()["detail"]

    def test_unknown_jobs_and_other_tenants_are_not_found(self, http: httpx.Client, redis: "Redis") -> None:
        job_id, job = self.finished(http, redis, Status.SUCCEEDED)
        redis.hset(keys.job_key(job_id), "job", job.model_copy(update={"tenant": "somebody"}).model_dump_json())
        for unknown in (job_id, "0" * 32, "nothing"):
            answer = http.get(f"/jobs/{unknown}/explanation.png")
            assert (answer.status_code, problem(answer)["code"]) == (404, "job_not_found")

    def test_a_crowd_is_drawn_in_turn_or_asked_to_return_and_the_service_goes_on(
        self, http: httpx.Client, redis: "Redis"
    ) -> None:
        job_id, _ = self.finished(http, redis, Status.SUCCEEDED, trajectory=TRAJECTORY, guidance=GUIDANCE)
        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(http.get, f"/jobs/{job_id}/explanation.png") for _ in range(24)]
            assert http.get(f"/jobs/{job_id}").status_code == 200
            answers = [each.result() for each in asked]
        codes = [answer.status_code for answer in answers]
        assert {*codes} <= {200, 503}
        assert codes.count(200) >= 9
        for answer in answers:
            if answer.status_code == 503:
                assert problem(answer)["code"] == "drawing_busy"
                assert int(answer.headers["Retry-After"]) > 0
        assert http.get(f"/jobs/{job_id}/explanation.png").status_code == 200
