"""GET /jobs: a tenant's own, newest first, page by page; and what is told of results that are no longer kept."""

import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.result import Result, Status
from service.api_keys import Scope
from tests.service import parts
from tests.service.conftest import KeyedGateway
from tests.service.test_bad_input import problem
from tests.service.test_jobs import posted


def listed(http: httpx.Client, **query: Any) -> list[str]:
    answer = http.get("/jobs", params=query)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_jobs_are_listed_newest_first(http: httpx.Client) -> None:
    assert http.get("/jobs").json() == {"jobs": [], "next_cursor": None}
    ids = [posted(http, num_images=2) for _ in range(3)]
    assert listed(http) == ids[::-1]
    job = http.get("/jobs").json()["jobs"][0]
    whole = http.get(job["url"]).json()
    assert {name: job[name] for name in ("id", "status", "created_at", "started_at")} == {
        name: whole[name] for name in ("id", "status", "created_at", "started_at")
    }
    assert (job["model"], job["pictures"]) == ("demo", 2)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_pages_hold_every_job_once(http: httpx.Client, redis: "Redis", limit: int) -> None:
    ids = [posted(http) for _ in range(7)]
    for job_id in ids[2:5]:  # accepted at the same moment
        redis.zadd(keys.tenant_jobs_key("local"), {job_id: 1_700_000_000.25})
    found: list[str] = []
    query: dict[str, Any] = {"limit": limit}
    while True:
        page = http.get("/jobs", params=query).json()
        assert len(page["jobs"]) <= limit
        found += [job["id"] for job in page["jobs"]]
        if page["next_cursor"] is None:
            break
        query["cursor"] = page["next_cursor"]
    assert len(found) == 7
    assert set(found) == set(ids)


def test_jobs_are_filtered_by_status_model_and_time(http: httpx.Client, redis: "Redis") -> None:
    parts.announce(redis, parts.model_info(name="other"))
    time.sleep(1.1)  # as long as the gateway knows the models it has read
    waiting, other, canceled = (posted(http, model=model) for model in ("demo", "other", "demo"))
    http.delete(f"/jobs/{canceled}")
    assert listed(http, status="queued") == [other, waiting]
    assert listed(http, status=["canceled", "running"]) == [canceled]
    assert listed(http, model="other") == [other]
    assert listed(http, model="other", status="canceled") == []
    since = http.get(f"/jobs/{other}").json()["created_at"]
    assert listed(http, since=since) == [canceled, other]
    assert listed(http, since=datetime.now(UTC).isoformat()) == []
    redis.hdel(keys.MODELS, "other")
    time.sleep(1.1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"cursor": "somewhere"}, "cursor"),
        ({"cursor": "bm9uZQ=="}, "cursor"),
        ({"cursor": "bmFuIHg="}, "cursor"),  # a time that is no number
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"status": "lost"}, "status"),
        ({"stauts": "failed"}, "stauts"),
        ({"since": "yesterday"}, "since"),
        ({"since": "2026-01-01T00:00:00"}, "since"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(http: httpx.Client, query: dict[str, Any], field: str) -> None:
    answer = http.get("/jobs", params=query)
    assert answer.status_code == 422
    assert any(error["field"].startswith(field) for error in problem(answer)["errors"])


def test_nobody_sees_anothers_jobs(keyed: KeyedGateway) -> None:
    with keyed.http("lister", Scope.GENERATE) as one, keyed.http("other-lister", Scope.GENERATE) as other:
        job_id = posted(one)
        assert listed(one) == [job_id]
        assert listed(other) == []


def test_a_result_that_is_no_longer_kept_is_gone_and_not_unknown(keyed: KeyedGateway) -> None:
    with keyed.http("gone", Scope.GENERATE) as http, keyed.http("stranger", Scope.GENERATE) as stranger:
        job_id = posted(http)
        attempt, _ = parts.take(keyed.redis, job_id)
        parts.commit(keyed.redis, job_id, attempt, Result(status=Status.CANCELED))
        keyed.redis.delete(keys.job_key(job_id))  # as its time does
        for method, path in (
            ("GET", ""),
            ("GET", "/events"),
            ("GET", "/images/0"),
            ("DELETE", ""),
            ("POST", "/cancel"),
        ):
            answer = http.request(method, f"/jobs/{job_id}{path}")
            assert (answer.status_code, problem(answer)["code"]) == (410, "result_expired"), path
            assert stranger.request(method, f"/jobs/{job_id}{path}").status_code == 404
        assert listed(http) == []
        assert http.get(f"/jobs/{'0' * 32}").status_code == 404


def test_a_damaged_record_is_told_as_such_and_spoils_no_list(http: httpx.Client, redis: "Redis") -> None:
    whole, no_hash, no_json = posted(http), posted(http), posted(http)
    redis.delete(keys.job_key(no_hash))
    redis.lpush(keys.job_key(no_hash), "something else")
    redis.hset(keys.job_key(no_json), "job", "{")
    assert listed(http) == [whole]
    for damaged in (no_hash, no_json):
        for answer in (http.get(f"/jobs/{damaged}"), http.delete(f"/jobs/{damaged}")):
            assert (answer.status_code, problem(answer)["code"]) == (500, "record_damaged")
        redis.zrem(keys.tenant_jobs_key("local"), damaged)  # as if it were another tenant's
        assert problem(http.get(f"/jobs/{damaged}"))["code"] == "job_not_found"
        link = http.get(f"/jobs/{damaged}/images/0", params={"signature": "A" * 43, "expires": 2**33})
        assert problem(link)["code"] == "invalid_link"
