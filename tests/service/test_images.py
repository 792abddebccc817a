"""POST /v1/images/generations at the gateway: its errors as OpenAI's client tells them, and what becomes of the job."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import openai
import pytest
from redis import Redis

from contract import keys
from contract.job import Job
from contract.result import JobError, Result, Status
from contract.verdict import Verdict
from lab.reference import document
from service.api_keys import Scope
from tests.service import parts
from tests.service.conftest import GatewayProcess, KeyedGateway
from tests.service.test_bad_input import problem

PATH = "/v1/images/generations"
PROMPT = "a midnight harbour"


@pytest.fixture
def client(gateway: GatewayProcess, redis: Redis) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0, timeout=30) as talking:
        yield talking


@contextmanager
def keyed_client(keyed: KeyedGateway, tenant: str, *scopes: Scope) -> Iterator[openai.OpenAI]:
    key, _ = keyed.ring.create(tenant, scopes)
    with openai.OpenAI(base_url=f"{keyed.gateway.url}/v1", api_key=key, max_retries=0, timeout=30) as talking:
        yield talking


def accepted(redis: Redis) -> str:
    """The id of the job that the next request becomes."""
    ends = time.monotonic() + 20
    while not (ids := redis.zrange(keys.ACCEPTED, 0, 0)):
        assert time.monotonic() < ends
        time.sleep(0.01)
    return str(ids[0])


@contextmanager
def worked(redis: Redis, result_of: Callable[[Job, int], Result]) -> Iterator[None]:
    """Bring the next job to a result."""

    def work() -> None:
        attempt, job = parts.take(redis, accepted(redis))
        parts.commit(redis, job.id, attempt, result_of(job, attempt))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join()


def error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-ID"]
    (told,) = answer.json().values()
    assert list(told) == ["message", "type", "param", "code"]
    return dict(told)


def test_what_was_asked_for_is_what_the_worker_gets(client: openai.OpenAI, redis: Redis) -> None:
    jobs: list[Job] = []

    def failed(job: Job, attempt: int) -> Result:
        jobs.append(job)
        return Result(status=Status.FAILED, error=JobError(code="row_failed", message="The engine gave up."))

    more = {"negative_prompt": "fog", "num_inference_steps": 9, "guidance_scale": 3, "seed": 41, "safety": "sld:max"}
    with worked(redis, failed), pytest.raises(openai.InternalServerError, match="The engine gave up") as refused:
        client.images.generate(
            prompt=PROMPT, model="demo", n=2, size="96x64", output_format="jpeg", user="someone", quality="auto",
            background="opaque", moderation="auto", partial_images=0, stream=False, extra_body=more,
        )  # fmt: skip
    assert refused.value.code == "job_failed"
    assert refused.value.response.headers["X-Should-Retry"] == "false"
    (job,) = jobs
    assert (job.prompt, job.negative_prompt, job.width, job.height) == (PROMPT, "fog", 96, 64)
    assert (job.seeds, job.steps, job.guidance_scale, job.output_format) == ((41, 42), 9, 3, "jpeg")
    assert job.plan.methods == ("sld",)


@pytest.mark.parametrize(
    ("body", "param", "fix"),
    [
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"n": 17}, "n", "at most 16"),
        ({"size": "1024"}, "size", "match"),
        ({"size": "96x9999"}, "size", "16 to 2048 pixels"),
        ({"size": "90x90"}, "size", "a multiple of 8 from 32 to 128"),
        ({"model": "gpt-image-2"}, "model", "available: demo"),
        ({"num_inference_steps": 0}, "num_inference_steps", "at least 1"),
        ({"safety": "sld:ultra"}, "safety", "choose from"),
        ({"safety": {"guidance": {"method": "sld", "scale": 1e9}}}, "safety.guidance.scale", "20000"),
        ({"quality": "hd"}, "quality", "must be 'auto'"),
        ({"background": "transparent"}, "background", "must be 'auto' or 'opaque'"),
        ({"moderation": "low"}, "moderation", "must be 'auto'"),
        ({"style": "vivid"}, "style", "is not a field of this request"),
        ({"output_compression": 50}, "output_compression", "is not a field of this request"),
        ({"output_format": "gif"}, "output_format", "'png', 'jpeg' or 'webp'"),
        ({"partial_images": 2}, "partial_images", "at most 0"),
        ({"stream": True, "response_format": "url"}, "stream", "b64_json"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"prompt": f"{PROMPT} " * 40}, "prompt", "tokens"),
    ],
)
def test_what_is_not_served_is_a_bad_request_that_names_the_field(
    http: httpx.Client, redis: Redis, body: dict[str, Any], param: str, fix: str
) -> None:
    before = parts.redis_keys(redis)
    answer = http.post(PATH, json={"prompt": PROMPT, **body})
    told = error(answer)
    assert (answer.status_code, told["type"], told["param"]) == (400, "invalid_request_error", param)
    assert fix in told["message"]
    assert parts.redis_keys(redis) == before


def test_errors_before_any_route_have_the_same_shape(http: httpx.Client) -> None:
    statuses = {
        400: http.post(PATH, content=b"{", headers={"Content-Type": "application/json"}),
        404: http.get("/v1/models"),
        405: http.get(PATH),
        413: http.post(PATH, content=b" " * 70_000, headers={"Content-Type": "application/json"}),
        415: http.post(PATH, content=b"{}", headers={"Content-Type": "text/plain"}),
        421: http.post(PATH, json={"prompt": PROMPT}, headers={"Host": "elsewhere.example"}),
    }
    for status, answer in statuses.items():
        assert answer.status_code == status
        assert error(answer)["type"] == "invalid_request_error"
    assert statuses[405].headers["Allow"] == "POST"
    assert problem(http.get("/nothing"))["code"] == "not_found"


def test_errors_are_those_that_the_client_has_classes_for(keyed: KeyedGateway) -> None:
    with openai.OpenAI(base_url=f"{keyed.gateway.url}/v1", api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.images.generate(prompt=PROMPT)
        assert refused.value.code == "invalid_api_key"
        assert refused.value.response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'
    with keyed_client(keyed, "images-moderator", Scope.MODERATE) as moderator:
        with pytest.raises(openai.PermissionDeniedError) as forbidden:
            moderator.images.generate(prompt=PROMPT)
        assert forbidden.value.code == "missing_scope"
    keyed.ring.limits("images-few", {"jobs": 1})
    with keyed_client(keyed, "images-few", Scope.GENERATE) as few:
        with pytest.raises(openai.NotFoundError):
            few.models.list()
        with pytest.raises(openai.InternalServerError) as late:
            few.images.generate(prompt=PROMPT)
        assert (late.value.status_code, late.value.code) == (504, "not_in_time")
        with pytest.raises(openai.RateLimitError) as too_many:
            few.images.generate(prompt=PROMPT)
        assert too_many.value.code == "too_many_jobs"
        assert int(too_many.value.response.headers["Retry-After"]) >= 1
    keyed.ring.limits("images-slow", {"requests": "1/minute"})
    with keyed_client(keyed, "images-slow", Scope.GENERATE) as slow:
        with pytest.raises(openai.InternalServerError):
            slow.images.generate(prompt=PROMPT)
        with pytest.raises(openai.RateLimitError) as too_fast:
            slow.images.generate(prompt=PROMPT)
        assert too_fast.value.code == "rate_limit_exceeded"
        assert "RateLimit" in too_fast.value.response.headers


def test_without_a_model_it_is_unavailable_and_says_when_to_come_back(client: openai.OpenAI, redis: Redis) -> None:
    redis.delete(keys.MODELS)
    time.sleep(1.1)  # as long as the gateway believes what it has read
    with pytest.raises(openai.InternalServerError) as refused:
        client.images.generate(prompt=PROMPT)
    assert (refused.value.status_code, refused.value.code) == (503, "no_model")
    assert int(refused.value.response.headers["Retry-After"]) >= 1
    parts.announce(redis)


def test_what_takes_too_long_goes_on_and_is_not_sent_again(keyed: KeyedGateway) -> None:
    key, _ = keyed.ring.create("images-patient", [Scope.GENERATE])
    with openai.OpenAI(base_url=f"{keyed.gateway.url}/v1", api_key=key, max_retries=2) as retrying:
        with pytest.raises(openai.InternalServerError) as late:
            retrying.images.generate(prompt=PROMPT)
        address = late.value.response.headers["Location"]
        assert address in late.value.message
        with httpx.Client(base_url=keyed.gateway.url, headers={"Authorization": f"Bearer {key}"}) as http:
            assert [job["url"] for job in http.get("/jobs").json()["jobs"]] == [address]
            assert http.get(address).json()["status"] == "queued"
        with (
            retrying.images.generate(prompt=PROMPT, stream=True) as stream,
            pytest.raises(openai.APIError, match="not finished yet") as told,
        ):
            list(stream)
        assert told.value.code == "not_in_time"


def test_a_canceled_job_is_a_conflict(client: openai.OpenAI, http: httpx.Client, redis: Redis) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.images.generate, prompt=PROMPT)
        assert http.delete(f"/jobs/{accepted(redis)}").status_code == 200
        with pytest.raises(openai.ConflictError) as canceled:
            waiting.result()
    assert canceled.value.code == "job_canceled"


def test_held_and_blocked_pictures_are_both_no_pictures(client: openai.OpenAI, redis: Redis) -> None:
    def held(job: Job, attempt: int) -> Result:
        found = {"concepts": (parts.score(0.4),), "reasons": ("weapon: over its threshold",)}
        return parts.result(job, Status.BLOCKED, parts.picture(job, 0, Verdict.REVIEW, **found))

    with worked(redis, held), pytest.raises(openai.BadRequestError, match="over its threshold") as refused:
        client.images.generate(prompt=PROMPT)
    assert refused.value.code == "moderation_blocked"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("more", "status"), [({}, "canceled"), ({"Idempotency-Key": "again"}, "queued")])
def test_a_client_that_hangs_up_has_its_job_canceled_unless_it_can_ask_again(
    client: openai.OpenAI, http: httpx.Client, redis: Redis, stream: bool, more: dict[str, str], status: str
) -> None:
    with (
        pytest.raises(openai.APITimeoutError),
        client.images.generate(prompt=PROMPT, stream=stream, extra_headers=more, timeout=0.5) as answer,  # type: ignore[union-attr]
    ):
        list(answer)
    (job,) = http.get("/jobs").json()["jobs"]
    ends = time.monotonic() + 10
    while http.get(job["url"]).json()["status"] != status:
        assert time.monotonic() < ends
        time.sleep(0.02)


def test_a_repeated_key_is_answered_with_the_same_pictures(
    client: openai.OpenAI, redis: Redis, gateway: GatewayProcess
) -> None:
    def passed(job: Job, attempt: int) -> Result:
        parts.store_picture(gateway.pictures, job, attempt, 0)
        return parts.result(job, Status.SUCCEEDED, parts.picture(job, 0))

    asked: dict[str, Any] = {"prompt": PROMPT, "extra_headers": {"Idempotency-Key": "once"}}
    with worked(redis, passed):
        first: Any = client.images.generate(**asked)
    again: Any = client.images.generate(**asked)
    assert again == first
    with pytest.raises(openai.BadRequestError) as other:
        client.images.generate(**{**asked, "n": 2})
    assert other.value.code == "idempotency_key_reused"


def test_the_examples_in_the_description_are_accepted(keyed: KeyedGateway) -> None:
    described = document()["paths"][PATH]["post"]["requestBody"]["content"]["application/json"]["examples"]
    with keyed.http("images-examples", Scope.GENERATE) as http:
        for example in described.values():
            assert http.post(PATH, json=example["value"]).status_code == 504  # as no worker comes
