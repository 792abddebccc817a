"""Jobs, their pictures and their end. What a worker would write is written through the record's own scripts."""

import json
import time
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.filter import Action, Filter, FilterConcept
from contract.job import Job
from contract.plan import SafetyPlan
from contract.result import Status
from service.jobs import doubt_about
from tests.service import parts
from tests.service.conftest import GatewayProcess
from tests.service.test_bad_input import problem


def posted(http: httpx.Client, **changes: Any) -> str:
    answer = http.post("/generate", json={"prompt": "a midnight harbour", **changes})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def finished(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess, status: Status = Status.SUCCEEDED, **changes: Any
) -> tuple[str, Job]:
    """A job with one picture, worked off as a worker does it."""
    job_id = posted(http)
    attempt, job = parts.take(redis, job_id)
    parts.store_picture(gateway.pictures, job, attempt, 0)
    parts.commit(redis, job_id, attempt, parts.result(job, status, parts.picture(job, 0, **changes)))
    return job_id, job


def test_a_job_goes_from_queued_through_running_to_its_result(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id = posted(http)
    assert http.get(f"/jobs/{job_id}").json()["status"] == "queued"
    attempt, job = parts.take(redis, job_id)
    running = http.get(f"/jobs/{job_id}").json()
    assert (running["status"], running["finished_at"]) == ("running", None)
    assert running["started_at"] >= running["created_at"]
    parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    done = http.get(f"/jobs/{job_id}").json()
    assert done["status"] == "succeeded"
    assert done["finished_at"] >= done["started_at"]
    assert done["safety"]["requested"] == "filter"
    assert done["images"][0]["seed"] == job.seeds[0]
    assert done["images"][0]["concepts"][0]["margin"] == -0.1


def test_a_score_that_is_missing_for_a_concept_of_the_plan_withholds_the_picture() -> None:
    concept = FilterConcept(name="knife", text="a knife", threshold=0.2)
    job = parts.some_job(plan=SafetyPlan(output=Filter(concepts=(concept,))))
    assert "knife" in str(doubt_about(parts.picture(job, 0), job))
    complete = parts.picture(job, 0, concepts=(parts.score(), parts.score(name="knife")))
    assert doubt_about(complete, job) is None


def test_without_a_filter_flags_are_shown_and_the_picture_is_delivered() -> None:
    flagged = (parts.score(0.3),)
    plain = parts.some_job(plan=SafetyPlan())
    assert doubt_about(parts.picture(plain, 0, concepts=flagged), plain) is None
    annotating = parts.some_job(plan=SafetyPlan(output=Filter(action=Action.ANNOTATE)))
    assert doubt_about(parts.picture(annotating, 0, concepts=flagged), annotating) is None


def test_what_is_to_be_blurred_is_delivered_blurred_only() -> None:
    job = parts.some_job(plan=SafetyPlan(output=Filter(action=Action.BLUR)))
    flagged = (parts.score(0.3),)
    assert doubt_about(parts.picture(job, 0, concepts=flagged, blurred=True), job) is None
    assert "do not pass" in str(doubt_about(parts.picture(job, 0, concepts=flagged), job))
    for action in (Action.REGENERATE, Action.REVIEW, Action.BLOCK):
        stricter = parts.some_job(plan=SafetyPlan(output=Filter(action=action)))
        assert "do not pass" in str(doubt_about(parts.picture(stricter, 0, concepts=flagged, blurred=True), stricter))


def test_pictures_of_an_unfinished_job_are_not_ready(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id = posted(http)
    attempt, job = parts.take(redis, job_id)
    parts.store_picture(gateway.pictures, job, attempt, 0)
    assert problem(http.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_not_ready"
    assert problem(http.get(f"/jobs/{job_id}/images/1"))["code"] == "picture_not_found"


def test_another_tenants_job_is_not_found(http: httpx.Client, redis: "Redis", gateway: GatewayProcess) -> None:
    job_id, job = finished(http, redis, gateway)
    redis.hset(keys.job_key(job_id), "job", job.model_copy(update={"tenant": "somebody"}).model_dump_json())
    for path in ("", "/events", "/images/0"):
        assert http.get(f"/jobs/{job_id}{path}").status_code == 404
    assert http.delete(f"/jobs/{job_id}").status_code == 404


def cancel_by_delete(http: httpx.Client, job_id: str) -> httpx.Response:
    return http.delete(f"/jobs/{job_id}")


def cancel_by_post(http: httpx.Client, job_id: str) -> httpx.Response:
    return http.post(f"/jobs/{job_id}/cancel")


@pytest.mark.parametrize("cancel", [cancel_by_delete, cancel_by_post])
class TestCancel:
    def test_a_waiting_job_ends_at_once(self, http: httpx.Client, redis: "Redis", cancel: Any) -> None:
        job_id = posted(http)
        answer = cancel(http, job_id)
        assert answer.status_code == 200
        assert answer.json()["status"] == "canceled"
        assert redis.lrange("rq:queue:seemly-demo", 0, -1) == []
        assert redis.zcard(keys.ACCEPTED) == 0
        assert not redis.exists(f"rq:job:{job_id}")
        assert redis.ttl(keys.job_key(job_id)) > 0

    def test_a_running_job_is_asked_to_stop(self, http: httpx.Client, redis: "Redis", cancel: Any) -> None:
        job_id = posted(http)
        attempt, job = parts.take(redis, job_id)
        redis.hset(f"rq:job:{job_id}", "worker_name", "worker-1")
        with redis.pubsub() as channel:
            channel.subscribe("rq:pubsub:worker-1")
            assert channel.get_message(timeout=5)
            answer = cancel(http, job_id)
            message = channel.get_message(timeout=5)
        assert message is not None
        command = json.loads(message["data"])
        assert (command["command"], command["job_id"]) == ("stop-job", job_id)
        assert answer.status_code == 202
        assert answer.json()["status"] == "running"
        assert redis.hget(keys.job_key(job_id), "cancel") == "1"
        parts.commit(redis, job_id, attempt, parts.result(job, Status.CANCELED))
        assert http.get(f"/jobs/{job_id}").json()["status"] == "canceled"

    def test_a_running_job_that_rq_has_forgotten_is_flagged_all_the_same(
        self, http: httpx.Client, redis: "Redis", cancel: Any
    ) -> None:
        job_id = posted(http)
        parts.take(redis, job_id)
        redis.delete(f"rq:job:{job_id}")
        assert cancel(http, job_id).status_code == 202
        assert redis.hget(keys.job_key(job_id), "cancel") == "1"

    def test_a_finished_job_cannot_be_canceled(
        self, http: httpx.Client, redis: "Redis", gateway: GatewayProcess, cancel: Any
    ) -> None:
        job_id, _ = finished(http, redis, gateway)
        answer = cancel(http, job_id)
        assert (answer.status_code, problem(answer)["code"]) == (409, "already_finished")
        assert "succeeded" in answer.json()["detail"]
        assert http.get(f"/jobs/{job_id}").json()["status"] == "succeeded"

    def test_an_unknown_job_is_not_found(self, http: httpx.Client, redis: "Redis", cancel: Any) -> None:
        assert cancel(http, "0" * 32).status_code == 404


def test_a_job_that_waits_past_its_deadline_is_expired_when_looked_at(http: httpx.Client, redis: "Redis") -> None:
    job_id = posted(http, deadline_s=3)
    assert http.get(f"/jobs/{job_id}").json()["status"] == "queued"
    time.sleep(3.1)
    view = http.get(f"/jobs/{job_id}").json()
    assert (view["status"], view["error"]["code"]) == ("expired", "expired")
    assert redis.lrange("rq:queue:seemly-demo", 0, -1) == []
    assert redis.zcard(keys.ACCEPTED) == 0


def test_a_running_job_is_left_alone_past_its_deadline(http: httpx.Client, redis: "Redis") -> None:
    job_id = posted(http, deadline_s=3)
    parts.take(redis, job_id)
    time.sleep(3.1)
    assert http.get(f"/jobs/{job_id}").json()["status"] == "running"
