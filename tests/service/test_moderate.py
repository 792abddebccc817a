"""`POST /moderate` at the gateway: what it refuses, what it keeps, how it ends when nobody judges."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.audit import ENTRY, JudgedText
from contract.result import Status
from contract.verdict import Verdict
from service.api_keys import Scope
from tests.contract.test_upload import BOMBS, COLOURS, file_of
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.conftest import KeyedGateway, on_the_line

PICTURE = b64encode(file_of(COLOURS)).decode()
TEXT = {"name": "hat", "text": "a hat", "threshold": 0.2}
READING: dict[str, Any] = {
    "id": "read-texts",
    "version": 1,
    "prompt_rules": {"concepts": [{"name": "violence", "text": "a knife", "threshold": 0.4}]},
}


@pytest.fixture
def moderator(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http("moderator", Scope.MODERATE) as client:
        yield client


def uploads(redis: "Redis") -> list[Any]:
    return list(redis.keys(f"{keys.PREFIX}upload:*"))


@contextmanager
def judging(redis: "Redis", url: str, verdict: Verdict, seen: list[bytes]) -> Iterator[None]:
    """A worker that reads the uploads of the next job and comes to a verdict on each."""

    def work() -> None:
        assert eventually(lambda: redis.zcard(keys.ACCEPTED) > 0)
        attempt, job = parts.take(redis, redis.zrange(keys.ACCEPTED, 0, 0)[0])
        found = [parts.score(0.4 if verdict is Verdict.BLOCKED else 0.1)]
        with Redis.from_url(url) as raw:
            seen.extend(raw.get(keys.upload_key(job.id, i)) or b"" for i in range(len(job.uploads)))
        pictures = [
            parts.picture(job, i, verdict, concepts=tuple(found), sha256=upload.sha256)
            for i, upload in enumerate(job.uploads)
        ]
        status = Status.SUCCEEDED if verdict is Verdict.PASSED else Status.BLOCKED
        parts.commit(redis, job.id, attempt, parts.result(job, status, *pictures))

    thread = threading.Thread(target=work)
    thread.start()
    yield
    thread.join(30)


@contextmanager
def reading_texts(keyed: KeyedGateway, tenant: str) -> Iterator[None]:
    """The tenant is under a policy that has texts scored."""
    with keyed.http("boss", Scope.ADMIN) as boss:
        boss.post("/policies", json=READING).raise_for_status()
        boss.put(f"/tenants/{tenant}/policy", json={"enforce": {"id": READING["id"], "version": 1}}).raise_for_status()
        yield
        boss.delete(f"/tenants/{tenant}/policy")


@pytest.mark.parametrize("verdict", [Verdict.PASSED, Verdict.BLOCKED])
def test_the_worker_gets_the_very_bytes_and_they_go_with_the_answer(
    http: httpx.Client, redis: "Redis", redis_server: RedisServer, verdict: Verdict
) -> None:
    seen: list[bytes] = []
    with judging(redis, redis_server.url, verdict, seen):
        answer = http.post("/moderate", json={"images": [PICTURE, PICTURE]})
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert seen == [file_of(COLOURS)] * 2
    assert [one["verdict"] for one in told["images"]] == [verdict.value] * 2
    assert told["flagged"] is (verdict is Verdict.BLOCKED)
    assert uploads(redis) == []
    assert PICTURE not in json.dumps(told)
    images = http.get(f"/jobs/{told['id']}").json()["images"]
    assert [(one["url"], one["signed_url"]) for one in images] == [(None, None)] * 2


def test_a_text_that_did_not_pass_is_remembered_as_flagged_and_no_more(
    http: httpx.Client, redis: "Redis", redis_server: RedisServer
) -> None:
    """A benign picture with a listed text: every answer says `flagged`."""
    rules = {"lists": [{"name": "blades", "words": ["knife"]}]}
    http.post("/policies", json={"id": "remembered", "version": 1, "prompt_rules": rules}).raise_for_status()
    ref = {"enforce": {"id": "remembered", "version": 1}}
    http.put("/tenants/local/policy", json=ref).raise_for_status()
    try:
        for text, flagged in (("a knife", True), ("a cat", False)):
            with judging(redis, redis_server.url, Verdict.PASSED, []):
                told = http.post("/moderate", json={"images": [PICTURE], "texts": [text]}).json()
            again = http.get(f"/moderate/{told['id']}").json()
            assert (told["flagged"], again["flagged"], again["texts"]) == (flagged, flagged, [])
            assert text not in str(redis.hgetall(keys.job_key(told["id"])))
            redis.zrem(keys.ACCEPTED, told["id"])
    finally:
        http.delete("/tenants/local/policy")


def test_only_a_key_with_the_scope_may_moderate(keyed: KeyedGateway) -> None:
    with keyed.http("writer", Scope.GENERATE) as client:
        for path, body in (("/moderate", {"images": [PICTURE]}), ("/v1/moderations", {"input": "a cat"})):
            assert client.post(path, json=body).status_code == 403
    assert httpx.post(f"{keyed.gateway.url}/moderate", json={"images": [PICTURE]}).status_code == 401


def test_what_costs_more_than_a_tenant_may_have_is_not_asked_for_again(keyed: KeyedGateway) -> None:
    keyed.redis.hset(keys.TENANTS, "thrifty", '{"cost": 100}')
    with keyed.http("thrifty", Scope.MODERATE) as client:
        answer = client.post("/moderate", json={"images": [PICTURE]})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "images")
    assert "the tenant may have 100 unfinished" in answer.json()["errors"][0]["message"]
    assert not uploads(keyed.redis)


def test_neither_are_texts_that_cost_more(keyed: KeyedGateway) -> None:
    keyed.redis.hset(keys.TENANTS, "terse", '{"cost": 100}')
    with reading_texts(keyed, "terse"), keyed.http("terse", Scope.MODERATE) as client:
        answer = client.post("/moderate", json={"texts": ["a cat"]})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "texts")
    assert "the tenant may have 100 unfinished" in answer.json()["errors"][0]["message"]
    assert not uploads(keyed.redis)


def test_texts_of_a_client_that_hangs_up_are_scored_for_nobody(http: httpx.Client, redis: "Redis") -> None:
    http.post("/policies", json=READING).raise_for_status()
    http.put("/tenants/local/policy", json={"enforce": {"id": READING["id"], "version": 1}}).raise_for_status()
    try:
        with on_the_line(http, "/moderate", {"texts": ["a cat"]}):
            assert eventually(lambda: redis.zcard(keys.ACCEPTED) == 1)
        assert eventually(lambda: not redis.keys(keys.job_key("*")))
    finally:
        http.delete("/tenants/local/policy")
    assert (redis.zcard(keys.ACCEPTED), redis.llen(f"rq:queue:{keys.queue_name(parts.MODEL)}")) == (0, 0)
    assert uploads(redis) == []


@pytest.mark.parametrize("path", ["/moderate", "/v1/moderations"])
def test_when_nobody_judges_in_time_it_says_so_and_leaves_nothing(
    keyed: KeyedGateway, moderator: httpx.Client, path: str
) -> None:
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}}
    answer = moderator.post(path, json={"images": [PICTURE]} if path == "/moderate" else {"input": [part]})
    assert (answer.status_code, int(answer.headers["Retry-After"]) > 0) == (503, True)
    told = answer.json()
    assert told.get("code", told.get("error", {}).get("code")) == "not_judged"
    assert uploads(keyed.redis) == []
    told = [keyed.redis.hget(keys.job_key(job_id), "tenant") for job_id in keyed.redis.zrange(keys.ACCEPTED, 0, -1)]
    assert "moderator" not in told


@pytest.mark.parametrize("name", BOMBS)
def test_what_is_no_picture_is_refused_by_its_place(moderator: httpx.Client, name: str) -> None:
    content, told = BOMBS[name]
    if told is None:
        return
    answer = moderator.post("/moderate", json={"images": [PICTURE, b64encode(content).decode()]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "images.1"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body"),
        ({"images": []}, "body"),
        ({"images": ["not base64!"]}, "images.0"),
        ({"images": ["https://example.com/a.png"]}, "images.0"),
        ({"images": ["file:///etc/passwd"]}, "images.0"),
        ({"images": ["data:image/png,plain"]}, "images.0"),
        ({"images": [""]}, "images.0"),
        ({"images": [PICTURE] * 17}, "images"),
        ({"texts": ["x" * 20_000] * 5 + ["y"]}, "texts"),
        ({"images": [PICTURE], "prompt": "x"}, "prompt"),
        ({"images": [PICTURE], "output": {"action": "regenerate"}}, "output"),
        ({"images": [PICTURE], "output": {"concepts": [TEXT, TEXT]}}, "output"),
        ({"images": [PICTURE], "output": {"concepts": [{**TEXT, "text": "hat " * 70}]}}, "output.concepts.0.text"),
        ({"images": [PICTURE], "output": {"concepts": [{**TEXT, "action": "review"}]}}, "output.concepts.0.action"),
        ({"texts": ["x"], "output": {"concepts": [{**TEXT, "threshold": True}]}}, "output.concepts.0.threshold"),
        ({"texts": ["x"], "output": {"rules": [{"name": "weapon", "threshold": "1"}]}}, "output.rules.0.threshold"),
        ({"images": [PICTURE], "model": "nobody's"}, "model"),
        ({"texts": ["   "]}, "texts.0"),
        ({"texts": ["lone \ud800"]}, "texts.0"),
    ],
)
def test_bad_input_is_named(moderator: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = moderator.post("/moderate", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == field
    assert PICTURE[:40] not in answer.text


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"files": [("image", (f"{i}.png", b"x", "image/png")) for i in range(17)]}, 422),
        ({"files": [("image", ("a.png", b"x", "image/png"))], "data": {"output": "{"}}, 422),
        ({"files": [("picture", ("a.png", b"x", "image/png"))]}, 422),
        ({"content": b"--x\r\nbroken", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 422),
        ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 422),
        ({"content": b"x", "headers": {"Content-Type": "image/png"}}, 415),
        ({"content": b"x" * (25 << 20), "headers": {"Content-Type": "application/json"}}, 413),
    ],
)
def test_a_form_that_cannot_be_read_is_refused(moderator: httpx.Client, sent: dict[str, Any], status: int) -> None:
    answer = moderator.post("/moderate", **sent)
    assert answer.status_code == status, answer.text
    assert answer.json()["code"]


def test_texts_are_screened_by_the_rules_of_the_policy(keyed: KeyedGateway, moderator: httpx.Client) -> None:
    rules = {"lists": [{"name": "violence", "words": ["machete"]}, {"name": "house", "words": ["grue"]}]}
    policy = {"id": "worded", "version": 1, "prompt_rules": rules}
    with keyed.http("boss", Scope.ADMIN) as boss:
        assert boss.post("/policies", json=policy).status_code in (200, 201)
        assigned = boss.put("/tenants/moderator/policy", json={"enforce": {"id": "worded", "version": 1}})
        assert assigned.status_code == 200, assigned.text
        try:
            texts = ["a cat", "a m\u200bachete", "a grue with a MACHETE"]
            told = moderator.post("/moderate", json={"texts": texts}).json()
            openais = moderator.post("/v1/moderations", json={"input": texts}).json()["results"]
        finally:
            boss.delete("/tenants/moderator/policy")
    assert told["policy"]["id"] == "worded"
    assert [(one["verdict"], one["lists"]) for one in told["texts"]] == [
        ("passed", []),
        ("blocked", ["violence"]),
        ("blocked", ["violence", "house"]),
    ]
    assert "machete" not in json.dumps(told).lower()
    record = [ENTRY.validate_json(fields["body"]) for _, fields in keyed.redis.xrange(keys.audit_key("moderator"))]
    entries = [one for one in record if isinstance(one, JudgedText) and one.policy.id == "worded"]
    assert [(one.field, one.verdict.value, list(one.lists)) for one in entries] == [
        (f"texts.{one['index']}", one["verdict"], one["lists"]) for one in (*told["texts"], *told["texts"])
    ]
    assert len({one.text.prompt for one in entries}) == 3  # hashed
    assert not any(text.lower() in one.model_dump_json().lower() for one in entries for text in texts)
    assert [(one["flagged"], one["categories"]["violence"]) for one in openais] == [
        (False, False),
        (True, True),
        (True, True),
    ]
    assert openais[1]["category_applied_input_types"]["violence"] == ["text"]


def test_texts_that_nobody_scores_for_the_policys_concepts_are_not_judged(
    keyed: KeyedGateway, moderator: httpx.Client
) -> None:
    with reading_texts(keyed, "moderator"):
        answer = moderator.post("/moderate", json={"texts": ["a cat"]})
        openais = moderator.post("/v1/moderations", json={"input": "a cat"})
        long = moderator.post("/moderate", json={"texts": ["a cat " * 2000] * 2})
    assert (answer.status_code, answer.json()["code"]) == (503, "not_judged"), answer.text
    assert (openais.status_code, openais.json()["error"]["code"]) == (503, "not_judged")
    assert (long.status_code, long.json()["errors"][0]["field"]) == (422, "texts")
    assert not uploads(keyed.redis)
    assert not keyed.redis.exists(keys.tenant_jobs_key("moderator", keys.READINGS))  # nothing is left of their jobs
    kinds = [keyed.redis.hget(key, "kind") for key in keyed.redis.keys(keys.job_key("*"))]
    assert keys.READINGS not in kinds


def test_other_routes_take_no_larger_bodies_than_before(moderator: httpx.Client) -> None:
    answer = moderator.post("/generate", content=b"x" * 70_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]}, "input"),
        ({"input": "a", "user": "x"}, "user"),
        ({"input": "a", "model": "nobody's"}, "model"),
        (
            {
                "input": [
                    {"type": "text", "text": "a"},
                    {"type": "image_url", "image_url": {"url": b64encode(b"no picture").decode()}},
                ]
            },
            "input.1",
        ),
    ],
)
def test_openais_clients_are_told_in_their_own_words(moderator: httpx.Client, body: dict[str, Any], field: str) -> None:
    answer = moderator.post("/v1/moderations", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"].startswith(field)
