"""What a worker makes of a job."""

import pytest

from contract import keys
from contract.filter import Action, Filter, FilterConcept
from contract.plan import SafetyPlan
from contract.result import Status
from contract.verdict import Verdict
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import RunningWorker
from tests.workers.lifecycle.paced_engine import INFO
from workers.results import why_refused


def test_what_was_applied_is_told_of_the_passed_picture_after_a_failed_one(
    client: Client, worker: RunningWorker
) -> None:
    wanted = job("wrong-size other-method|a harbour", pictures=2)
    client.accept(wanted)
    client.wait_for([wanted.id])
    result = client.result(wanted.id)
    assert [picture.verdict for picture in result.images] == [Verdict.ERROR, Verdict.PASSED]
    assert result.safety is not None
    assert result.safety.applied == {"output": {"method": "filter"}}


def test_without_the_filter_a_flag_is_shown_and_the_picture_delivered(client: Client, worker: RunningWorker) -> None:
    wanted = job("a weapon", plan=SafetyPlan())
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.SUCCEEDED}
    [picture] = client.result(wanted.id).images
    assert picture.concepts[0].flagged
    assert len(worker.files()) == 1


def test_a_picture_held_for_review_is_not_stored_with_the_others(client: Client, worker: RunningWorker) -> None:
    wanted = job("a weapon", plan=SafetyPlan(output=Filter(action=Action.REVIEW)))
    client.accept(wanted)
    client.wait_for([wanted.id])
    assert [picture.verdict for picture in client.result(wanted.id).images] == [Verdict.REVIEW]
    assert worker.files() == []


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("unscored", "detector_error"),
        ("misscored", "detector_error"),
        ("nan", "detector_error"),
        ("wrong-size", "invalid_output"),
        ("row-fails", "row_failed"),
    ],
)
def test_a_picture_without_a_whole_verdict_is_withheld(
    client: Client, worker: RunningWorker, prompt: str, code: str
) -> None:
    wanted = job(prompt)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.FAILED}
    result = client.result(wanted.id)
    assert [picture.verdict for picture in result.images] == [Verdict.ERROR]
    assert result.error is not None
    assert result.error.code == code
    assert worker.files() == []


def test_a_concept_of_the_plan_that_was_not_scored_withholds_the_picture(client: Client, worker: RunningWorker) -> None:
    own = FilterConcept(name="umbrella", text="an umbrella", threshold=0.2)
    wanted = job(plan=SafetyPlan(output=Filter(concepts=(own,))))
    client.accept(wanted)
    client.wait_for([wanted.id])
    error = client.result(wanted.id).error
    assert error is not None
    assert error.code == "detector_error"
    assert worker.files() == []


def test_a_job_whose_method_the_worker_does_not_serve_fails(client: Client, worker: RunningWorker) -> None:
    wanted = job("a weapon", plan=SafetyPlan.from_short_form("sld"))
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.FAILED}
    error = client.result(wanted.id).error
    assert error is not None
    assert error.code == "invalid_job"
    assert worker.files() == []


def test_a_job_whose_action_the_worker_has_not_announced_is_refused() -> None:
    blocks_only = INFO.model_copy(update={"actions": (Action.BLOCK,)})
    concept = FilterConcept(name="umbrella", text="an umbrella", threshold=0.2, action=Action.BLUR)
    wanted = job("a weapon", plan=SafetyPlan(output=Filter(concepts=(concept,))))
    error = why_refused(wanted, blocks_only)
    assert error is not None
    assert (error.code, error.message) == ("invalid_job", "this worker cannot act by: blur")
    assert why_refused(wanted, INFO) is None


def test_a_job_past_its_deadline_expires_without_work(client: Client, worker: RunningWorker) -> None:
    wanted = job(deadline_s=0)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.EXPIRED}
    client.assert_ended_once([wanted.id])


def test_a_deadline_that_passes_while_running_expires_the_job(client: Client, worker: RunningWorker) -> None:
    wanted = job(steps=150, deadline_s=0.3)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.EXPIRED}
    assert worker.files() == []


def test_progress_is_told_between_started_and_finished(client: Client, worker: RunningWorker) -> None:
    wanted = job(steps=60, pictures=2)
    client.accept(wanted)
    client.wait_for([wanted.id])
    events = client.events(wanted.id)
    kinds = [kind for kind, _ in events]
    assert kinds == ["queued", "started", *["progress"] * (len(kinds) - 3), "finished"]
    told = [data for kind, data in events if kind == "progress"]
    assert len(told) >= 3
    assert all(data["steps"] == 120 for data in told)
    assert [data["step"] for data in told] == sorted(data["step"] for data in told)


def test_many_jobs_share_the_engine(client: Client, worker: RunningWorker) -> None:
    job_ids = [client.accept(job(pictures=2)) for _ in range(40)]
    assert set(client.wait_for(job_ids).values()) == {Status.SUCCEEDED}
    client.assert_ended_once(job_ids)
    counted = worker.metrics.registry.get_sample_value
    assert counted("seemly_worker_jobs_total", {"mode": "filter", "outcome": "succeeded"}) == 40
    assert counted("seemly_worker_pictures_total", {"verdict": "passed"}) == 80
    [hour] = client.redis.keys(f"{keys.PREFIX}scores:*")
    assert client.redis.hgetall(hour) == {b"test|1|weapon|5": b"80"}
