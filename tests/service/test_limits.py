"""What a tenant and an end user may use, and that what ends is given back, however it ends."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.job import Job
from contract.plan import SafetyPlan
from contract.result import JobError, Result, Status
from contract.verdict import Verdict
from service.api_keys import Scope
from service.problems import TooManyRefusals
from service.queue import JobQueue
from service.webhooks.signing import SecretRing
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import KeyedGateway
from tests.service.test_bad_input import problem

COST = 64 * 64 * 25 * 2  # of a request that says nothing but its prompt
MODELS_OWN = {"prompt": "a quiet street"}


@pytest.fixture
def tenant(keyed: KeyedGateway, request: pytest.FixtureRequest) -> str:
    """A tenant of this test's own, whose limits nobody has read yet."""
    return re.sub("[^a-z0-9]+", "-", str(request.node.name).lower()).strip("-")[-60:].strip("-")


@pytest.fixture
def limited(keyed: KeyedGateway, tenant: str) -> Iterator[Any]:
    """Makes a client whose tenant has these limits."""
    clients: list[httpx.Client] = []

    def make(**limits: Any) -> httpx.Client:
        keyed.ring.limits(tenant, limits)
        clients.append(keyed.http(tenant, Scope.GENERATE))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def post(http: httpx.Client, **changes: Any) -> httpx.Response:
    return http.post("/generate", json={**MODELS_OWN, **changes})


def held(redis: "Redis", tenant: str) -> tuple[int, int]:
    """Unfinished jobs and their cost."""
    entries = redis.hgetall(keys.in_flight_key(tenant))
    total = int(entries.pop("total", 0))
    assert total == sum(map(int, entries.values()))
    return len(entries), total


def test_requests_over_the_rate_get_429_and_every_answer_tells_what_is_left(limited: Any) -> None:
    http = limited(requests="5/minute")
    answers = [http.get("/models") for _ in range(7)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 2
    assert [re.findall(r'"requests";r=(\d+);t=\d+', one.headers["RateLimit"]) for one in answers] == [
        [str(left)] for left in (4, 3, 2, 1, 0, 0, 0)
    ]
    assert {answer.headers["RateLimit-Policy"] for answer in answers} == {'"requests";q=5;w=60'}
    assert problem(answers[-1])["code"] == "too_many_requests"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60


def test_a_tenants_rate_is_no_other_tenants(keyed: KeyedGateway, limited: Any) -> None:
    http = limited(requests="1/minute")
    assert [http.get("/models").status_code for _ in range(2)] == [200, 429]
    with keyed.http("another", Scope.GENERATE) as other:
        assert other.get("/models").status_code == 200


def test_unfinished_jobs_are_counted_until_they_end(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    http = limited(jobs=4)
    redis = keyed.redis
    ids = [post(http).json()["id"] for _ in range(4)]
    answer = post(http)
    assert (answer.status_code, problem(answer)["code"]) == (429, "too_many_jobs")
    assert int(answer.headers["Retry-After"]) >= 1
    assert held(redis, tenant) == (4, 4 * COST)
    http.delete(f"/jobs/{ids[0]}")  # waiting, canceled
    attempt, job = parts.take(redis, ids[1])
    parts.commit(redis, job.id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    attempt, job = parts.take(redis, ids[2])
    lost = Result(status=Status.FAILED, error=JobError(code="lost", message="as the reaper ends it"))
    parts.commit(redis, job.id, attempt, lost)
    assert held(redis, tenant) == (1, COST)
    assert [post(http).status_code for _ in range(4)] == [202, 202, 202, 429]


def left(answer: httpx.Response) -> dict[str, int]:
    """What `RateLimit` says is left, by quota."""
    told = re.findall(r'"(\w+)";r=(\d+)', answer.headers["RateLimit"])
    assert [name for name, _ in told] == re.findall(r'"(\w+)";q=', answer.headers["RateLimit-Policy"])
    return {name: int(count) for name, count in told}


def test_answers_to_a_job_tell_what_is_left_of_every_quota(limited: Any) -> None:
    http = limited(requests="100/minute", jobs=2, cost=5 * COST)
    assert left(http.get("/models")) == {"requests": 99}
    assert left(post(http, num_images=2)) == {"requests": 98, "jobs": 1, "cost": 3 * COST}
    too_much = post(http, num_images=4)
    assert (too_much.status_code, left(too_much)) == (429, {"requests": 97, "jobs": 1, "cost": 3 * COST})
    assert left(post(http)) == {"requests": 96, "jobs": 0, "cost": 2 * COST}
    too_many = post(http)
    assert (too_many.status_code, left(too_many)) == (429, {"requests": 95, "jobs": 0, "cost": 2 * COST})


def test_quotas_without_a_limit_are_not_told(limited: Any) -> None:
    http = limited(requests=None, jobs=None, cost=None)
    assert "RateLimit" not in post(http).headers


def test_an_expired_job_is_given_back(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    http = limited(jobs=1)
    job_id = post(http, deadline_s=0.2).json()["id"]
    answer = http.post("/generate", json=MODELS_OWN)
    assert answer.status_code == 429
    time.sleep(0.3)
    assert http.get(f"/jobs/{job_id}").json()["status"] == "expired"
    assert held(keyed.redis, tenant) == (0, 0)
    assert post(http).status_code == 202


def test_a_job_whose_record_is_gone_holds_nothing_for_ever(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    http = limited(jobs=1)
    job_id = post(http).json()["id"]
    keyed.redis.delete(keys.job_key(job_id))
    assert post(http).status_code == 202
    assert held(keyed.redis, tenant) == (1, COST)


def test_cost_is_counted_as_well(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    http = limited(cost=4 * COST)
    assert post(http, num_images=3).status_code == 202
    answer = post(http, num_images=2)
    assert (answer.status_code, problem(answer)["code"]) == (429, "too_much_work")
    assert post(http).status_code == 202
    assert held(keyed.redis, tenant) == (2, 4 * COST)
    alone = post(http, num_images=5)
    assert (alone.status_code, problem(alone)["code"]) == (422, "invalid_request")
    assert str(5 * COST) in alone.json()["errors"][0]["message"]


def test_fifty_posts_at_once_do_not_pass_the_limit(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    http = limited(jobs=7)
    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(answer.status_code for answer in pool.map(lambda _: post(http), range(50)))
    assert statuses == [202] * 7 + [429] * 43
    assert held(keyed.redis, tenant) == (7, 7 * COST)


@pytest.mark.parametrize(
    ("plan", "guidance_scale", "branches"),
    [
        ({}, 7.5, 2),
        ({}, 1.0, 1),
        ({"guidance": {"method": "sld"}}, 7.5, 3),
        ({"guidance": {"method": "sega", "concepts": [{"text": "a"}, {"text": "b"}]}}, 7.5, 4),
        ({"guidance": {"method": "negative"}}, 7.5, 2),
    ],
)
def test_a_jobs_cost_is_its_pixels_times_steps_times_branches_times_pictures(
    plan: dict[str, Any], guidance_scale: float, branches: int
) -> None:
    job: Job = parts.some_job(plan=SafetyPlan.model_validate(plan), guidance_scale=guidance_scale, seeds=(1, 2, 3))
    assert job.cost == 64 * 64 * 25 * branches * 3


def test_blocked_pictures_use_up_their_end_users_budget_and_nobody_elses(
    keyed: KeyedGateway, limited: Any, tenant: str
) -> None:
    http = limited(refusals=3)
    redis = keyed.redis

    def block(end_user: str | None, pictures: int) -> None:
        job_id = post(http, end_user=end_user, num_images=pictures + 1).json()["id"]
        attempt, job = parts.take(redis, job_id)
        blocked = [parts.picture(job, i, Verdict.BLOCKED, concepts=(parts.score(0.3),)) for i in range(pictures)]
        result = parts.result(job, Status.PARTIAL, *blocked, parts.picture(job, pictures))
        parts.commit(redis, job_id, attempt, result)

    block("mallory", 2)
    block(None, 5)
    assert post(http, end_user="mallory").status_code == 202
    block("mallory", 1)
    answer = post(http, end_user="mallory")
    assert (answer.status_code, problem(answer)["code"]) == (429, "too_many_refusals")
    assert 3500 < int(answer.headers["Retry-After"]) <= 3600
    assert post(http, end_user="alice").status_code == 202
    assert post(http).status_code == 202
    assert "mallory" not in str(redis.keys("*"))
    (counted,) = (key for key in redis.keys("*") if key.startswith(keys.refusals_key(tenant, "")))
    redis.delete(counted)  # as time does
    assert post(http, end_user="mallory").status_code == 202


def test_a_count_of_refusals_always_ends(redis_server: RedisServer, redis: "Redis") -> None:
    queue, key = JobQueue(redis_server.url, 20), keys.refusals_key("someone", "mallory")
    redis.set(key, 7)  # as if whoever counted last had died before it set an end
    with pytest.raises(TooManyRefusals) as refused:
        queue.count_refusal("someone", "mallory", 7)
    queue.close()
    assert redis.get(key) == "8"
    assert 3590 < redis.ttl(key) <= int(refused.value.headers["Retry-After"]) <= 3600


def test_a_picture_without_end_user_is_counted_for_nobody(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    http = limited(refusals=1)
    for _ in range(3):
        job_id = post(http).json()["id"]
        attempt, job = parts.take(keyed.redis, job_id)
        blocked = parts.picture(job, 0, Verdict.BLOCKED, concepts=(parts.score(0.3),))
        parts.commit(keyed.redis, job_id, attempt, parts.result(job, Status.BLOCKED, blocked))
    assert not [key for key in keyed.redis.keys("*") if key.startswith(keys.refusals_key(tenant, ""))]


def test_own_limits_change_what_they_name_only(keyed: KeyedGateway, tenant: str) -> None:
    assert keyed.ring.limits(tenant, {}) is None
    keyed.ring.limits(tenant, {"jobs": "10"})
    own = keyed.ring.limits(tenant, {"requests": "9/second", "cost": None})
    assert own is not None
    assert own.model_dump(exclude_unset=True) == {"jobs": 10, "requests": "9/second", "cost": None}
    assert keyed.ring.limits(tenant, {}, reset=True) is None
    with pytest.raises(ValueError, match="600/minute"):
        keyed.ring.limits(tenant, {"requests": "often"})


def test_without_keys_there_are_no_limits(http: httpx.Client, redis: "Redis") -> None:
    answers = [http.get("/models") for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    assert not any("RateLimit" in answer.headers for answer in answers)
    assert not [key for key in redis.keys("*") if key.startswith(f"{keys.PREFIX}rate")]


def test_undelivered_webhooks_pile_up_to_their_limit_only(keyed: KeyedGateway, limited: Any, tenant: str) -> None:
    SecretRing(keyed.redis, "x" * 32, Path()).create(tenant)
    http = limited(webhooks=2)
    for _ in range(2):
        job_id = post(http, webhook_url="https://app.example/").json()["id"]
        http.delete(f"/jobs/{job_id}")
    answer = post(http, webhook_url="https://app.example/")
    assert (answer.status_code, problem(answer)["code"]) == (429, "too_many_webhooks")
    assert int(answer.headers["Retry-After"]) >= 1
    assert post(http).status_code == 202
    keyed.redis.zpopmin(keys.due_deliveries_key(tenant))  # one was delivered
    assert post(http, webhook_url="https://app.example/").status_code == 202
