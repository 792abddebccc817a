"""Bad input: each a 4xx problem that names the field and the fix, echoes nothing and enqueues nothing."""

import json
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from redis import Redis

from contract.plan import SafetyPlan
from contract.request import GenerateRequest
from service.servable import plan_errors
from tests.service import parts
from tests.service.conftest import GatewayProcess

PROMPT = "a midnight harbour"
JSON = {"Content-Type": "application/json"}


def problem(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["Content-Type"] == "application/problem+json"
    told: dict[str, Any] = answer.json()
    assert told["status"] == answer.status_code
    assert told["request_id"] == answer.headers["X-Request-ID"]
    assert told["type"] == f"urn:seemly:problem:{told['code']}"
    assert "Traceback" not in answer.text
    assert len(answer.content) < 5000
    return told


@pytest.mark.parametrize(
    ("changes", "field", "fix"),
    [
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"prompt": "   "}, "prompt", "must not be empty"),
        ({"prompt": None}, "prompt", "string"),
        ({"prompt": "x" * 4001}, "prompt", "at most 4000 characters"),
        ({"prompt": "nul \x00"}, "prompt", "NUL"),
        ({"width": 33}, "width", "a multiple of 8 from 32 to 128"),
        ({"width": 16}, "width", "a multiple of 8 from 32 to 128"),
        ({"height": 1024}, "height", "a multiple of 8 from 32 to 128"),
        ({"height": 0}, "height", "16"),
        ({"steps": 0}, "steps", "at least 1"),
        ({"steps": 10_000}, "steps", "at most 150"),
        ({"guidance_scale": -1}, "guidance_scale", "at least 0"),
        ({"seed": -1}, "seed", "at least 0"),
        ({"seed": 2**53}, "seed", "at most 9007199254740991"),
        ({"num_images": 17}, "num_images", "at most 16"),
        ({"model": "dall-e"}, "model", "available: demo"),
        ({"safety": "magic"}, "safety", "choose from: none, safree"),
        ({"safety": "sld:ultra"}, "safety", "choose from: weak, medium, strong, max"),
        ({"safety": ["sld", "negative"]}, "safety", "choose one"),
        ({"safety": 7}, "safety", "a name, a list of names, or an object"),
        ({"safety": "sega"}, "safety.guidance", "available: safree"),
        ({"safety": "erased:nothing"}, "safety.weights.variant", "available: sdd-weapons"),
        ({"safety": {"guidance": {"method": "sld", "scale": 1e9}}}, "safety.guidance.scale", "20000"),
        ({"safety": {"output": {"method": "filter", "action": "blur"}}}, "safety.output.action", "annotate, block"),
        ({"safety": "sld", "guidance_scale": 1}, "guidance_scale", "more than 1"),
        ({"safety": "sld", "steps": 10}, "steps", "10 warm-up steps"),
        ({"safety": "unguidance", "scheduler": "euler"}, "scheduler", "'ddim' only"),
        ({"safety": {"guidance": {"method": "sld", "scale": 0}}}, "safety.guidance.scale", "does nothing at 0"),
        ({"safety": {"trajectory": {"strength": 0}}}, "safety.trajectory.strength", "does nothing at 0"),
        (
            {"safety": {"trajectory": {"schedule": "window", "start_step": 25}}},
            "safety.trajectory.start_step",
            "beyond the last of 25",
        ),
        ({"negative_prompt": "fog", "guidance_scale": 1}, "negative_prompt", "off at a guidance_scale of 1"),
        ({"scheduler": "plms"}, "scheduler", "'ddim'"),
        ({"scheduler": "dpm++2m"}, "scheduler", "available: ddim, euler"),
        ({"output_format": "gif"}, "output_format", "'png'"),
        ({"deadline_s": 0}, "deadline_s", "more than 0"),
        ({"webhook_url": "https://example.org"}, "webhook_url", "needs a signing secret"),
        ({"webhook_url": "http://example.org"}, "webhook_url", "https://"),
        ({"webhook_url": "https://10.0.0.1"}, "webhook_url", "public"),
        ({"end_user": ""}, "end_user", "must not be empty"),
        ({"end_user": "x" * 201}, "end_user", "at most 200"),
        ({"priority": "urgent"}, "priority", "'low', 'normal' or 'high'"),
        ({"steps": "2"}, "steps", "must be a number"),
        ({"num_images": True}, "num_images", "must be a number"),
        ({"guidance_scale": "7.5"}, "guidance_scale", "must be a number"),
        ({"deadline_s": "60"}, "deadline_s", "must be a number"),
        ({"seed": False}, "seed", "must be a number"),
        ({"width": "64"}, "width", "must be a number"),
        ({"safety": {"guidance": {"method": "sld", "scale": "900"}}}, "safety.guidance.scale", "must be a number"),
        (
            {"safety": {"output": {"concepts": [{"name": "x", "text": "y", "threshold": True}]}}},
            "safety.output.concepts.0.threshold",
            "must be a number",
        ),
        ({"n": 4}, "n", "not a field of this request; remove it"),
    ],
)
def test_a_field_that_cannot_be_served_is_named_with_its_fix(
    http: httpx.Client, redis: "Redis", changes: dict[str, Any], field: str, fix: str
) -> None:
    before = parts.redis_keys(redis)
    answer = http.post("/generate", json={"prompt": PROMPT, **changes})
    told = problem(answer)
    assert (answer.status_code, told["code"]) == (422, "invalid_request")
    assert field in told["detail"]
    messages = {error["field"]: error["message"] for error in told["errors"]}
    assert fix in messages[field]
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize(
    ("body", "status", "field", "fix"),
    [
        (b'{"prompt": "x", "guidance_scale": NaN}', 422, "guidance_scale", "finite"),
        (b'{"prompt": "x", "guidance_scale": 1e400}', 422, "guidance_scale", "finite"),
        (b'{"prompt": "x", "seed": NaN}', 422, "seed", "finite"),
        (b'{"prompt": "\\ud83d alone"}', 422, "prompt", "lone surrogate (U+D83D) at position 0"),
        (b'{"prompt": "x", "\\udc00": 1}', 422, "body", "unicode"),
        (b'{"prompt": "x"', 422, "body", "position 14"),
        (b"", 422, "body", "required"),
        (b"[]", 422, "body", "a JSON object"),
        (b'"x"', 422, "body", "a JSON object"),
        (b"null", 422, "body", "a JSON object"),
        (b"\xff\xfe\x00", 400, "body", "UTF-8"),
        (b"[" * 60_000, 400, "body", "ordinary depth"),
        (b'{"prompt": "x", "seed": ' + b"1" * 5000 + b"}", 400, "body", "ordinary numbers"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    http: httpx.Client, redis: "Redis", body: bytes, status: int, field: str, fix: str
) -> None:
    before = parts.redis_keys(redis)
    answer = http.post("/generate", content=body, headers=JSON)
    told = problem(answer)
    assert answer.status_code == status
    assert fix in {error["field"]: error["message"] for error in told["errors"]}[field]
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize(
    ("safety", "field"),
    [
        ({"guidance": {"method": "sld", "concepts": ["abc " * 30]}}, "safety.guidance.concepts"),
        ({"guidance": {"method": "negative", "concepts": ["abc " * 30]}}, "safety.guidance.concepts"),
        ({"prompt": {"concepts": ["gore", "abc " * 30]}}, "safety.prompt.concepts.1"),
        ({"trajectory": {"concepts": ["gore", "abc " * 30]}}, "safety.trajectory.concepts.1"),
        (
            {"output": {"concepts": [{"name": "x", "text": "abc " * 30, "threshold": 0.2}]}},
            "safety.output.concepts.0.text",
        ),
    ],
)
def test_a_concept_past_the_tokens_is_refused_not_cut(
    http: httpx.Client, redis: "Redis", safety: dict[str, Any], field: str
) -> None:
    before = parts.redis_keys(redis)
    told = problem(http.post("/generate", json={"prompt": PROMPT, "safety": safety}))
    assert "lost" in {error["field"]: error["message"] for error in told["errors"]}[field]
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize("safety", ["sega", "sld", "negative", "safree"])
def test_a_default_text_past_the_tokens_is_refused_as_well(http: httpx.Client, redis: "Redis", safety: str) -> None:
    methods = ("safree", "negative", "sld", "sega")
    parts.announce(redis, parts.model_info(default_concepts=("abc " * 30,), methods=methods))
    time.sleep(1.1)
    told = problem(http.post("/generate", json={"prompt": PROMPT, "safety": safety}))
    assert "lost" in told["errors"][0]["message"]
    parts.announce(redis)
    time.sleep(1.1)


@pytest.mark.parametrize(
    ("safety", "field"),
    [
        ("unguidance", "safety.trajectory.preset"),
        ("unguidance:single", "safety.trajectory.preset"),
        ({"trajectory": {"preset": "filter", "concepts": ["gore"]}}, "safety.trajectory.concepts"),
    ],
)
def test_a_model_that_scores_no_texts_is_corrected_by_its_own_concepts_only(safety: Any, field: str) -> None:
    own_only = parts.model_info(scores_text_concepts=False)
    plan = GenerateRequest(prompt=PROMPT, safety=safety).plan
    assert [error.field for error in plan_errors(plan, own_only)] == [field]
    assert not list(plan_errors(SafetyPlan.from_short_form("unguidance:filter"), own_only))
    assert not list(plan_errors(plan, parts.model_info()))


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_a_text_past_the_tokens_names_the_words_that_would_be_lost(
    http: httpx.Client, redis: "Redis", field: str
) -> None:
    before = parts.redis_keys(redis)
    # one token a letter: 25 words of three fill all 75 places between the marks
    fitting = " ".join(["abc"] * 24)
    assert http.post("/generate", json={"prompt": PROMPT, field: f"{fitting} end"}).status_code == 202
    redis.flushall()
    parts.announce(redis)
    answer = http.post("/generate", json={"prompt": PROMPT, field: f"{fitting} ends with  these lost"})
    messages = {error["field"]: error["message"] for error in problem(answer)["errors"]}
    assert messages[field] == (
        "takes 91 tokens of at most 77; shorten it. These words would be lost: ends with these lost"
    )
    assert parts.redis_keys(redis) == before


def test_a_very_long_text_is_cut_in_the_answer(http: httpx.Client) -> None:
    answer = http.post("/generate", json={"prompt": "word " * 700})
    (error,) = problem(answer)["errors"]
    assert len(error["message"]) < 300


def test_many_wrong_fields_are_told_in_bounded_number(http: httpx.Client) -> None:
    answer = http.post("/generate", json={f"{index:04}{'x' * 50}": 1 for index in range(900)})
    assert answer.status_code == 422
    assert len(problem(answer)["errors"]) == 20


def test_twenty_megabytes_are_refused_and_not_echoed(http: httpx.Client, redis: "Redis") -> None:
    before = parts.redis_keys(redis)
    body = json.dumps({"prompt": "x" * 20_000_000}).encode()
    for _ in range(5):  # the answer is never lost to a reset connection
        answer = http.post("/generate", content=body, headers=JSON)
        told = problem(answer)
        assert (answer.status_code, told["code"]) == (413, "body_too_large")
        assert [error["field"] for error in told["errors"]] == ["body"]
    assert parts.redis_keys(redis) == before


def test_an_undeclared_length_does_not_get_around_the_limit(gateway: GatewayProcess, redis: "Redis") -> None:
    before = parts.redis_keys(redis)
    address = urlsplit(gateway.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        head = (
            "POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            "Transfer-Encoding: chunked\r\n\r\n"
        )
        connection.sendall(head.encode())
        for _ in range(5):
            connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            time.sleep(0.01)
        answer = connection.recv(65536)  # although the body never ends
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize("media_type", ["text/plain", "multipart/form-data", "application/x-www-form", None])
def test_another_media_type_is_refused(http: httpx.Client, redis: "Redis", media_type: str | None) -> None:
    before = parts.redis_keys(redis)
    headers = {"Content-Type": media_type} if media_type else {}
    answer = http.post("/generate", content=b'{"prompt": "x"}', headers=headers)
    assert (answer.status_code, problem(answer)["code"]) == (415, "unsupported_media_type")
    assert parts.redis_keys(redis) == before


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_a_wrong_method_is_refused_with_the_right_one(http: httpx.Client, method: str) -> None:
    answer = http.request(method, "/generate")
    assert (answer.status_code, problem(answer)["code"]) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "POST"


def test_a_wrong_method_is_told_all_the_right_ones(http: httpx.Client) -> None:
    assert http.patch("/jobs/" + "0" * 32).headers["Allow"] == "DELETE, GET, HEAD"


@pytest.mark.parametrize(
    "path",
    ["/jobs/" + "0" * 32, "/jobs/nonsense", "/jobs/" + "0" * 32 + "/events", "/jobs/" + "0" * 32 + "/images/0"],
)
def test_an_unknown_job_is_not_found(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert (answer.status_code, problem(answer)["code"]) == (404, "job_not_found")


def test_an_unknown_address_is_not_found(http: httpx.Client) -> None:
    answer = http.get("/nothing")
    assert (answer.status_code, problem(answer)["code"]) == (404, "not_found")


def test_a_sane_request_id_is_kept_and_another_replaced(http: httpx.Client) -> None:
    assert http.get("/nothing", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"] == "abc-1"
    assert http.get("/nothing", headers={"X-Request-ID": "a b\t<script>"}).headers["X-Request-ID"] != "a b\t<script>"


def test_without_a_model_the_answer_is_to_come_back(http: httpx.Client, redis: "Redis") -> None:
    redis.flushall()
    time.sleep(1.1)  # as long as the gateway trusts what it has read
    answer = http.post("/generate", json={"prompt": PROMPT})
    assert (answer.status_code, problem(answer)["code"]) == (503, "no_model")
    assert int(answer.headers["Retry-After"]) > 0


def test_between_two_models_one_must_be_chosen(http: httpx.Client, redis: "Redis") -> None:
    parts.announce(redis, parts.model_info(name="other"))
    time.sleep(1.1)
    answer = http.post("/generate", json={"prompt": PROMPT})
    assert problem(answer)["errors"] == [
        {"field": "model", "message": "is needed, as more than one is served; available: demo, other"}
    ]
    assert http.post("/generate", json={"prompt": PROMPT, "model": "other"}).status_code == 202
    redis.hdel("seemly:models", "other")
    time.sleep(1.1)


def test_a_tokenizer_that_is_not_the_models_is_not_used(http: httpx.Client, redis: "Redis") -> None:
    parts.announce(redis, parts.model_info(tokenizer_sha256="1" * 64))
    redis.set("seemly:tokenizer:" + "1" * 64, b"{}")
    time.sleep(1.1)
    before = parts.redis_keys(redis)
    answer = http.post("/generate", json={"prompt": PROMPT})
    assert (answer.status_code, problem(answer)["code"]) == (503, "no_model")
    assert parts.redis_keys(redis) == before
    parts.announce(redis)
    time.sleep(1.1)
