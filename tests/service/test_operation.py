"""What operators ask: is it ready, what is served, what was counted."""

import re
import time
from inspect import iscoroutinefunction

import httpx
from redis import Redis

from contract import keys
from contract.effect import Effect, MeasuredEffects, MeasuredUnder
from contract.plan import METHODS
from service.models import FRESH_S
from service.queue import RECENT_S
from service.routes import compare, generate, images, jobs
from tests.service import parts
from tests.service.test_bad_input import problem
from tests.service.test_jobs import posted


def test_ready_takes_a_worker_whose_lease_has_not_ended(http: httpx.Client, redis: "Redis") -> None:
    assert problem(http.get("/healthz/ready"))["code"] == "not_ready"
    parts.announce_worker(redis, lease_s=-1)
    assert http.get("/healthz/ready").status_code == 503
    parts.announce_worker(redis)
    assert http.get("/healthz/ready").json() == {"status": "ready"}


def test_a_redis_that_evicts_or_forgets_is_not_ready(http: httpx.Client, redis: "Redis") -> None:
    parts.announce_worker(redis)
    redis.config_set("maxmemory", "1gb")
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "noeviction" in problem(http.get("/healthz/ready"))["detail"]
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "0")
    redis.config_set("appendonly", "no")
    try:
        assert "appendonly" in problem(http.get("/healthz/ready"))["detail"]
    finally:
        redis.config_set("appendonly", "yes")
    assert http.get("/healthz/ready").status_code == 200


def test_every_safety_method_is_told_with_its_place_presets_and_models(http: httpx.Client) -> None:
    told = http.get("/safety/methods").json()
    methods = {method["name"]: method for method in told["methods"]}
    assert set(methods) == set(METHODS) - {"none"}
    assert methods["sld"]["place"] == "guidance"
    assert methods["sld"]["presets"] == ["weak", "medium", "strong", "max"]
    assert methods["sld"]["parameters"]["properties"]["scale"]["description"]
    assert methods["sld"]["models"] == ["demo"]
    assert methods["sega"]["models"] == []
    assert methods["erased"]["presets"] == ["sdd-weapons"]
    assert methods["filter"]["presets"] == ["annotate", "block"]  # as announced
    assert methods["filter"]["parameters"]["properties"]["regenerations"]["description"]


def test_variants_are_told_with_their_model(http: httpx.Client) -> None:
    [told] = http.get("/variants").json()["variants"]
    assert told == {"model": "demo", **parts.VARIANT.model_dump(mode="json")}


def test_models_are_told_as_announced(http: httpx.Client) -> None:
    told = http.get("/models").json()
    assert told["default"] == "demo"
    assert told["models"] == [parts.model_info().model_dump(mode="json")]


def test_metrics_count_answers_by_route_and_the_queue_without_touching_it(http: httpx.Client, redis: "Redis") -> None:
    job_ids = [posted(http) for _ in range(3)]
    redis.lmove("rq:queue:seemly-demo", "rq:queue:seemly-demo:intermediate", "LEFT", "LEFT")
    redis.zadd("rq:wip:seemly-demo", {"a:1": 1, "b:2": time.time() + 60})  # the first has long run out
    http.get(f"/jobs/{job_ids[0]}")
    before = parts.redis_keys(redis)
    text = http.get("/metrics").text
    assert 'seemly_queue_waiting{model="demo"} 2.0' in text
    assert 'seemly_queue_popped{model="demo"} 1.0' in text
    assert 'seemly_queue_in_flight{model="demo"} 2.0' in text
    assert 'seemly_http_requests_total{method="GET",route="/jobs/{job_id}",status="200"}' in text
    assert 'seemly_jobs_accepted_total{model="demo"}' in text
    assert 'seemly_queue_unfinished{model="demo"} 5.0' in text  # waiting, popped, in flight: KEDA's figure
    assert 'seemly_workers_ready{model="demo"} 0.0' in text
    assert re.search(r"seemly_redis_memory_bytes [1-9]", text)
    assert "seemly_redis_up 1.0" in text
    assert not any(job_id in text for job_id in job_ids)
    assert parts.redis_keys(redis) == before
    assert redis.zcard("rq:wip:seemly-demo") == 2


def test_metrics_tell_erasures_from_jobs_and_how_long_reviews_wait(http: httpx.Client, redis: "Redis") -> None:
    erasure, job, now = posted_erasure(http), posted(http), time.time()
    redis.zadd(keys.ACCEPTED, {erasure: now - 5000, job: now - 100})
    forgotten = {"decided-never": now - 8 * 86_400}  # of which nothing is kept any more
    redis.zadd(keys.PENDING_REVIEWS, {"one": now - 300, "two": now - 20, **forgotten})
    text = http.get("/metrics").text

    def told(name: str) -> float:
        return float(re.findall(rf"^{re.escape(name)} (.*)$", text, re.M)[0])

    oldest = "seemly_oldest_unfinished_job_seconds"
    ages = [told(f'{oldest}{{kind="{kind}"}}') for kind in ("jobs", "erasures", "standings")]
    assert [round(age, -1) for age in ages] == [100, 5000, 0]
    assert told("seemly_reviews_pending") == 2
    assert round(told("seemly_oldest_pending_review_seconds"), -1) == 300


def posted_erasure(http: httpx.Client) -> str:
    answer = http.post("/erasures", json={"name": "uce-x", "recipe": {"method": "uce", "concepts": ["knife"]}})
    return str(answer.raise_for_status().json()["id"])


def test_the_expected_wait_follows_measured_times(http: httpx.Client, redis: "Redis") -> None:
    redis.lpush(keys.SERVICE_TIMES, "4.0", "6.0")
    time.sleep(RECENT_S)
    first = http.post("/generate", json={"prompt": "a harbour"})
    second = http.post("/generate", json={"prompt": "a harbour"})
    assert [first.headers["Retry-After"], second.headers["Retry-After"]] == ["5", "10"]


def test_a_method_is_told_with_what_it_came_to_on_each_model(http: httpx.Client, redis: "Redis") -> None:
    effect = Effect(pictures=200, failures=0, distance=0.1, unet_rows=75, seconds=0.3)
    plans = {"none": effect, "sld:max": effect, "sega": effect, "safree+sld:max": effect}
    settings = MeasuredUnder(
        weights_sha256="0" * 64, steps=25, guidance_scale=7.5, safety_concepts=("weapons",), unguidance={}
    )
    measured = MeasuredEffects(settings=settings, effects={"ambiguous": plans})
    parts.announce(redis, parts.model_info(measured=measured.model_dump()))
    time.sleep(FRESH_S)  # the gateway may just have read the models
    told = {method["name"]: method["measured"]["demo"] for method in http.get("/safety/methods").json()["methods"]}
    assert told["sld"]["settings"] == settings.model_dump(mode="json")
    assert list(told["sld"]["effects"]["ambiguous"]) == ["none", "sld:max"]
    assert list(told["sega"]["effects"]["ambiguous"]) == ["none", "sega"]
    assert told["sld"]["effects"]["ambiguous"]["sld:max"] == effect.model_dump(mode="json")


def test_no_dependency_of_a_route_is_taken_to_a_thread() -> None:
    """Which FastAPI does with those that are not async; it takes longer than all that they do."""
    pending = [route.dependant for routes in (compare, generate, images, jobs) for route in routes.router.routes]
    assert len(pending) > 8
    while pending:
        for dependency in pending.pop().dependencies:
            assert iscoroutinefunction(dependency.call) or iscoroutinefunction(type(dependency.call).__call__)
            pending.append(dependency)
