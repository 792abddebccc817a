"""Idempotency-Key: one job for a request, however often it arrives and whatever was lost on the way."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from contract import keys
from contract.acceptance import Terms
from contract.result import Status
from service.api_keys import Scope
from service.problems import IdempotencyKeyReused, QueueFull
from service.queue import JobQueue
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import GatewayProcess, KeyedGateway
from tests.service.test_bad_input import problem
from tests.service.test_outages import cutting_proxy

BODY = {"prompt": "a midnight harbour"}
KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


def test_a_request_sent_again_is_answered_as_the_first_time(http: httpx.Client, redis: "Redis") -> None:
    first = http.post("/generate", json=BODY, headers=KEY)
    parts.take(redis, first.json()["id"])  # it runs by now
    written_otherwise = b'{ "prompt":  "a midnight harbour", "num_images": 1 }'
    again = http.post("/generate", content=written_otherwise, headers=KEY | {"Content-Type": "application/json"})
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    bare = http.post("/generate", json=BODY, headers={"Idempotency-Key": KEY["Idempotency-Key"].strip('"')})
    assert bare.json() == first.json()
    assert redis.zcard(keys.ACCEPTED) == 1


def test_with_a_wait_the_end_of_the_same_job_is_told(
    http: httpx.Client, redis: "Redis", gateway: GatewayProcess
) -> None:
    job_id = http.post("/generate", json=BODY, headers=KEY).json()["id"]
    attempt, job = parts.take(redis, job_id)
    parts.store_picture(gateway.pictures, job, attempt, 0)
    parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    for _ in range(2):
        answer = http.post("/generate", json=BODY, headers=KEY | {"Prefer": "wait=20"})
        assert (answer.status_code, answer.json()["id"], answer.json()["status"]) == (200, job_id, "succeeded")


def test_a_job_is_made_again_once_whatever_has_become_of_it(http: httpx.Client, redis: "Redis") -> None:
    job_id = http.post("/generate", json=BODY).json()["id"]
    attempt, job = parts.take(redis, job_id)
    parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    first = http.post(f"/jobs/{job_id}/reproduce", headers=KEY)
    redis.hdel(keys.job_key(job_id), "result")
    assert http.post(f"/jobs/{job_id}/reproduce").status_code == 409
    again = http.post(f"/jobs/{job_id}/reproduce", headers=KEY)
    assert (again.status_code, again.json()) == (202, first.json())
    assert again.headers["Location"] == first.headers["Location"]
    assert http.post("/generate", json=BODY, headers=KEY).json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("body", [{"prompt": "another"}, {**BODY, "seed": 1}])
def test_another_body_under_the_same_key_is_refused(http: httpx.Client, redis: "Redis", body: dict[str, str]) -> None:
    http.post("/generate", json=BODY, headers=KEY)
    answer = http.post("/generate", json=body, headers=KEY)
    assert (answer.status_code, problem(answer)["code"]) == (422, "idempotency_key_reused")
    assert redis.zcard(keys.ACCEPTED) == 1


def test_another_route_under_the_same_key_is_refused(http: httpx.Client) -> None:
    compare = {**BODY, "plans": ["none", "filter"]}
    assert http.post("/compare", json=compare, headers=KEY).status_code == 202
    assert http.post("/compare", json=compare, headers=KEY).status_code == 202
    assert http.post("/generate", json=BODY, headers=KEY).status_code == 422


def test_a_refused_request_leaves_its_key_free(http: httpx.Client) -> None:
    assert http.post("/generate", json={**BODY, "width": 17}, headers=KEY).status_code == 422
    assert http.post("/generate", json=BODY, headers=KEY).status_code == 202


@pytest.mark.parametrize("key", ["", "x" * 256, 'a"b', '""', "tab\tbed"])
def test_a_key_that_is_none_is_refused(http: httpx.Client, redis: "Redis", key: str) -> None:
    answer = http.post("/generate", json=BODY, headers={"Idempotency-Key": key})
    assert (answer.status_code, problem(answer)["code"]) == (400, "bad_request")
    assert redis.zcard(keys.ACCEPTED) == 0


def test_fifty_posts_at_once_become_one_job(http: httpx.Client, redis: "Redis") -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: http.post("/generate", json=BODY, headers=KEY), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.text for answer in answers}) == 1
    assert redis.llen("rq:queue:seemly-demo") == redis.zcard(keys.ACCEPTED) == 1


def test_a_key_is_its_tenants_own(keyed: KeyedGateway) -> None:
    with keyed.http("one", Scope.GENERATE) as one, keyed.http("two", Scope.GENERATE) as two:
        ids = {http.post("/generate", json=BODY, headers=KEY).json()["id"] for http in (one, two, one, two)}
    assert len(ids) == 2


def test_an_acceptance_whose_reply_was_lost_is_found_again(redis_server: RedisServer, redis: "Redis") -> None:
    terms = Terms(queue_limit=1, idempotency_key="key", fingerprint="same")
    target = Path(redis_server.url.removeprefix("unix://"))
    first, again = parts.some_job(), parts.some_job(id="1" * 32)
    JobQueue(redis_server.url, 1).accept(parts.some_job(id="2" * 32, model="other"), Terms(queue_limit=1))  # loads it
    with losing_proxy(target, target.parent) as url:
        queue = JobQueue(url, 1)
        with pytest.raises(RedisConnectionError):
            queue.accept(first, terms)
        queue.close()
    queue = JobQueue(redis_server.url, 1)
    found = queue.accept(again, terms)  # although the queue is full
    assert (found.id, found.created_at, found.is_new) == (first.id, first.created_at, False)
    assert queue.replayed("local", "key", "same") == found
    with pytest.raises(IdempotencyKeyReused):
        queue.replayed("local", "key", "other")
    with pytest.raises(IdempotencyKeyReused):
        queue.accept(again, Terms(queue_limit=9, idempotency_key="key", fingerprint="other"))
    with pytest.raises(QueueFull):
        queue.accept(again, Terms(queue_limit=1))
    queue.close()
    assert redis.lrange("rq:queue:seemly-demo", 0, -1) == [first.id]


def losing_proxy(target: Path, folder: Path):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Passes the acceptance on, and hangs up before its reply."""
    return cutting_proxy(target, folder, b"EVALSHA", after=True)


def test_a_key_ends(redis_server: RedisServer, redis: "Redis") -> None:
    queue = JobQueue(redis_server.url, 5)
    terms = Terms(queue_limit=9, idempotency_key="key", fingerprint="same", idempotency_ttl_s=1)
    assert queue.accept(parts.some_job(), terms).is_new
    assert not queue.accept(parts.some_job(id="1" * 32), terms).is_new
    time.sleep(1.1)
    assert queue.accept(parts.some_job(id="1" * 32), terms).is_new
    queue.close()
