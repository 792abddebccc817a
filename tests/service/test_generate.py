"""POST /generate: what is accepted, and how."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from redis import Redis
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from contract import keys
from contract.job import Job
from contract.result import JobView, Status
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import GatewayProcess

PROMPT = "a midnight harbour"


def accepted_job(redis: "Redis", answer: httpx.Response) -> Job:
    assert answer.status_code == 202, answer.text
    return Job.model_validate_json(redis.hget(keys.job_key(answer.json()["id"]), "job"))


def test_a_prompt_alone_is_accepted_with_an_address(http: httpx.Client) -> None:
    answer = http.post("/generate", json={"prompt": PROMPT})
    assert answer.status_code == 202
    view = JobView.model_validate_json(answer.content)
    assert view.status is Status.QUEUED
    assert answer.headers["Location"] == f"/jobs/{view.id}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert http.get(answer.headers["Location"]).json() == answer.json()


def test_every_default_is_filled_in_from_the_model(http: httpx.Client, redis: "Redis") -> None:
    job = accepted_job(redis, http.post("/generate", json={"prompt": f"  {PROMPT} "}))
    assert (job.prompt, job.negative_prompt, job.model, job.tenant) == (PROMPT, "", "demo", "local")
    assert (job.width, job.height, job.steps, job.guidance_scale) == (64, 64, 25, 7.5)
    assert job.requested == "filter"
    assert job.plan.methods == ("filter",)
    assert (job.policy.id, job.policy.version) == ("default", 1)


def test_what_was_asked_for_is_what_the_worker_gets(http: httpx.Client, redis: "Redis") -> None:
    request: dict[str, Any] = {
        "prompt": PROMPT, "negative_prompt": "fog", "model": "demo", "safety": ["sld:max", "erased:sdd-weapons"],
        "num_images": 3, "width": 96, "height": 64, "steps": 9, "guidance_scale": 3.5, "scheduler": "euler",
        "seed": 41, "output_format": "webp", "deadline_s": 60,
    }  # fmt: skip
    job = accepted_job(redis, http.post("/generate", json=request))
    told = job.model_dump(mode="json")
    same = ("prompt", "negative_prompt", "model", "width", "height", "steps", "guidance_scale", "scheduler")
    assert {field: told[field] for field in same} == {field: request[field] for field in same}
    assert job.output_format == "webp"
    assert job.seeds == (41, 42, 43)
    assert job.plan.methods == ("erased", "sld")
    assert job.deadline_at is not None
    assert (job.deadline_at - job.created_at).total_seconds() == pytest.approx(60)


def test_seeds_without_a_choice_differ_from_job_to_job(http: httpx.Client, redis: "Redis") -> None:
    jobs = [accepted_job(redis, http.post("/generate", json={"prompt": PROMPT})) for _ in range(3)]
    assert len({job.seeds for job in jobs}) == 3


def test_the_last_seed_wraps_around_instead_of_leaving_the_range(http: httpx.Client, redis: "Redis") -> None:
    job = accepted_job(redis, http.post("/generate", json={"prompt": PROMPT, "seed": 2**53 - 1, "num_images": 2}))
    assert job.seeds == (2**53 - 1, 0)


def test_an_accepted_job_is_on_record_unfinished_announced_and_in_the_queue(
    http: httpx.Client, redis: "Redis", redis_server: RedisServer
) -> None:
    job_id = http.post("/generate", json={"prompt": PROMPT}).json()["id"]
    assert redis.zscore(keys.ACCEPTED, job_id) == pytest.approx(time.time(), abs=10)
    assert redis.lrange("rq:queue:seemly-demo", 0, -1) == [job_id]
    (_, queued), *rest = redis.xrange(keys.events_key(job_id))
    assert not rest
    assert queued["type"] == "queued"
    assert json.loads(queued["data"])["position"] == 1
    assert 0 < redis.ttl(keys.events_key(job_id)) <= 3600
    with Redis.from_url(redis_server.url) as raw:
        rq_job = QueuedJob.fetch(job_id, connection=raw, serializer=JSONSerializer)
    assert (rq_job.func_name, rq_job.args, rq_job.kwargs) == ("generate", [], {})
    assert (rq_job.retries_left, rq_job.ttl, rq_job.description) == (3, None, "generate")
    assert redis.ttl(f"rq:job:{job_id}") == -1


def test_the_prompt_is_in_our_record_and_nowhere_else(
    http: httpx.Client, redis_server: RedisServer, redis: "Redis", gateway: GatewayProcess
) -> None:
    unmistakable = "xyzzy-prompt"
    http.post("/generate", json={"prompt": unmistakable, "negative_prompt": unmistakable})
    http.post("/generate", json={"prompt": unmistakable, "width": 7})
    http.post("/generate", json={"prompt": f"{unmistakable} " * 40})
    http.post("/generate", json={"prompt": unmistakable, "safety": unmistakable})
    contents = parts.redis_contents(redis_server.url)
    assert [key for key, content in contents.items() if unmistakable.encode() in content] == [
        key for key in contents if key.startswith(b"seemly:job:")
    ]
    (rq_record,) = (key.decode() for key in contents if key.startswith(b"rq:job:"))
    with Redis.from_url(redis_server.url) as raw:
        rq_job = QueuedJob.fetch(rq_record.removeprefix("rq:job:"), connection=raw, serializer=JSONSerializer)
    assert unmistakable.encode() not in rq_job.data  # which lies compressed in Redis
    assert unmistakable not in gateway.log.read_text()


def test_fifty_posts_at_once_become_fifty_jobs(http: httpx.Client, redis: "Redis") -> None:
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda index: http.post("/generate", json={"prompt": f"picture {index}"}), range(50)))
    assert {answer.status_code for answer in answers} == {202}
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == 50
    assert set(redis.lrange("rq:queue:seemly-demo", 0, -1)) == ids
    assert redis.llen("rq:queue:seemly-demo") == 50
    assert redis.zcard(keys.ACCEPTED) == 50


def test_a_wait_that_suffices_is_answered_with_the_result(http: httpx.Client, redis: "Redis") -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.post, "/generate", json={"prompt": PROMPT}, headers={"Prefer": "wait=20"})
        while not (ids := redis.lrange("rq:queue:seemly-demo", 0, -1)):
            time.sleep(0.01)
        attempt, job = parts.take(redis, ids[0])
        began = time.monotonic()
        parts.commit(redis, ids[0], attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
        finished = answer.result()
    assert time.monotonic() - began < 1
    assert finished.status_code == 200
    assert finished.headers["Preference-Applied"] == "wait=20"
    assert finished.json()["status"] == "succeeded"
    assert finished.json()["images"][0]["url"] == f"/jobs/{ids[0]}/images/0"


def test_a_wait_that_does_not_suffice_is_answered_as_without_one(http: httpx.Client) -> None:
    began = time.monotonic()
    answer = http.post("/generate", json={"prompt": PROMPT}, headers={"Prefer": "respond-async, wait=1"})
    assert 0.9 < time.monotonic() - began < 3
    assert answer.status_code == 202
    assert "Preference-Applied" not in answer.headers


def test_a_wait_ends_with_the_jobs_deadline(http: httpx.Client) -> None:
    began = time.monotonic()
    answer = http.post("/generate", json={"prompt": PROMPT, "deadline_s": 0.5}, headers={"Prefer": "wait=30"})
    assert time.monotonic() - began < 5
    assert (answer.status_code, answer.json()["status"]) == (200, "expired")
    assert answer.json()["error"]["code"] == "expired"


@pytest.mark.parametrize("preference", ["wait=61", "wait=abc", "wait=-1", "wait", "wait=1.5"])
def test_a_wait_that_cannot_be_kept_is_refused(http: httpx.Client, redis: "Redis", preference: str) -> None:
    before = parts.redis_keys(redis)
    answer = http.post("/generate", json={"prompt": PROMPT}, headers={"Prefer": preference})
    assert answer.status_code == 400
    assert "60" in answer.json()["detail"]
    assert parts.redis_keys(redis) == before


def test_a_caller_who_hangs_up_while_waiting_leaves_nothing_behind(http: httpx.Client, gateway: GatewayProcess) -> None:
    for _ in range(5):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{gateway.url}/generate", json={"prompt": PROMPT}, headers={"Prefer": "wait=60"}, timeout=0.3)
    ends = time.monotonic() + 10
    while (line := "seemly_event_listeners 0.0") not in (text := http.get("/metrics").text):
        assert time.monotonic() < ends, (line, text)
        time.sleep(0.1)
