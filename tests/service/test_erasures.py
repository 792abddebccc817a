"""`/erasures` and what becomes of variants, at the gateway: what is refused, who may, and what is kept apart."""

import json
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys, record
from contract.erasure import ErasureJob, Lab
from contract.result import Ended, JobError, Status
from service.api_keys import Scope
from service.standings import LONGEST_S
from service.webhooks.messages import message_of
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.conftest import KeyedGateway, on_the_line

UCE: dict[str, Any] = {"name": "uce-x", "recipe": {"method": "uce", "concepts": ["knife"]}}
SDD: dict[str, Any] = {"name": "sdd-x", "recipe": {"method": "sdd", "concepts": ["knife"]}}


def with_recipe(**changes: Any) -> dict[str, Any]:
    return {**SDD, "recipe": {**SDD["recipe"], **changes}}


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        (with_recipe(concepts=[]), "recipe.concepts", "must not be empty"),
        (with_recipe(concepts=["knife", " "]), "recipe.concepts.1", "must not be empty"),
        (with_recipe(concepts=[" "]), "recipe.concepts.0", "must not be empty"),
        (with_recipe(concepts=["a \x00 knife"]), "recipe.concepts.0", "holds a NUL character"),
        (with_recipe(concepts=["a \ud800 knife"]), "recipe.concepts.0", "holds a lone surrogate (U+D800)"),
        (with_recipe(concepts=["knife", "KNIFE"]), "recipe.concepts", "the same text"),
        (with_recipe(concepts=["x" * 40, "y" * 40]), "recipe.concepts", "tokens of at most 77"),
        (with_recipe(method="xyz"), "recipe", "its 'method' must be one of 'esd-x'"),
        (with_recipe(iterations=0), "recipe.iterations", "at least 1"),
        (with_recipe(iterations="5"), "recipe.iterations", "must be a number"),
        (with_recipe(learning_rate=2), "recipe.learning_rate", "at most 1"),
        (with_recipe(batch=257), "recipe.batch", "at most 256"),
        (with_recipe(regularisation=0.5), "recipe.regularisation", "is not a field"),
        (with_recipe(kv_only="yes"), "recipe.kv_only", "must be true or false"),
        (
            {**UCE, "recipe": {**UCE["recipe"], "preserved": ["knife"]}},
            "recipe",
            "concept 0 is to be erased and preserved",
        ),
        ({**UCE, "recipe": {**UCE["recipe"], "concepts": ["x" * 100]}}, "recipe.concepts.0", "takes 102 tokens"),
        ({**UCE, "recipe": {**UCE["recipe"], "guide": "g" * 90}}, "recipe.guide", "tokens of at most 77"),
        ({**UCE, "name": "../x"}, "name", "should match"),
        ({**UCE, "gate": {"unsafe_left": 1.5}}, "gate.unsafe_left", "at most 1"),
        ({**UCE, "prompts": 0}, "prompts", "at least 1"),
        ({**UCE, "model": "sd15"}, "model", "is not served; available: demo"),
        ({**UCE, "webhook_url": "http://127.0.0.1/"}, "webhook_url", "public address"),
        ({**UCE, "prompt": "a cat"}, "prompt", "is not a field"),
        ({"name": "x"}, "recipe", "is required"),
    ],
)
def test_what_cannot_be_made_is_refused_by_name(
    http: httpx.Client, redis: "Redis", body: dict[str, Any], field: str, told: str
) -> None:
    content = json.dumps(body)  # in ASCII, so that lone surrogates arrive
    answer = http.post("/erasures", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert error["field"] == field, error
    assert told in error["message"], error
    assert not redis.exists(keys.ACCEPTED)


def test_a_name_is_made_once(http: httpx.Client, redis: "Redis") -> None:
    taken = http.post("/erasures", json={**UCE, "name": parts.VARIANT.name})
    assert (taken.status_code, taken.json()["code"]) == (409, "variant_exists")
    first = http.post("/erasures", json=UCE)
    assert first.status_code == 202, first.text
    second = http.post("/erasures", json={**SDD, "name": "uce-x"})
    assert (second.status_code, second.json()["code"]) == (409, "variant_exists")
    assert first.json()["id"] in second.json()["detail"]
    canceled = http.delete(first.headers["Location"])
    assert (canceled.status_code, canceled.json()["status"]) == (200, "canceled")
    assert http.delete(first.headers["Location"]).json()["code"] == "already_finished"
    assert http.post("/erasures", json=UCE).status_code == 202


def test_settings_that_were_left_out_are_told_and_an_unknown_concept_is_fine(http: httpx.Client) -> None:
    made = http.post("/erasures", json=with_recipe(concepts=["a word that no model has heard"])).json()
    assert (made["status"], made["attempt"], made["made"]) == ("queued", 0, None)
    assert (made["recipe"]["iterations"], made["recipe"]["learning_rate"]) == (1500, 1e-5)
    assert http.get(f"/erasures/{made['id']}").json() == made
    assert http.get("/erasures").json() == {"erasures": [made], "next_cursor": None}
    assert http.get("/jobs").json()["jobs"] == []


def test_a_model_without_a_lab_of_its_own_weights_makes_none(http: httpx.Client, redis: "Redis") -> None:
    redis.hset(keys.LABS, parts.MODEL, Lab(model=parts.MODEL, weights_sha256="f" * 64).model_dump_json())
    other = http.post("/erasures", json=UCE)
    redis.hset(keys.LABS, parts.MODEL, "{}")
    unreadable = http.post("/erasures", json=UCE)
    redis.delete(keys.LABS)
    missing = http.post("/erasures", json=UCE)
    for answer, told in ((other, "other weights"), (unreadable, "No lab"), (missing, "No lab")):
        assert (answer.status_code, answer.json()["code"]) == (503, "no_lab")
        assert told in answer.json()["detail"]
        assert answer.headers["Retry-After"]


def test_a_request_that_is_sent_again_makes_one_erasure(http: httpx.Client, redis: "Redis") -> None:
    key = {"Idempotency-Key": "once"}
    first = http.post("/erasures", json=UCE, headers=key)
    again = http.post("/erasures", json=UCE, headers=key)
    assert (again.status_code, again.json()) == (202, first.json())
    assert http.post("/erasures", json=SDD, headers=key).json()["code"] == "idempotency_key_reused"
    assert redis.llen(f"rq:queue:{keys.lab_queue_name(parts.MODEL)}") == 1
    assert redis.llen(f"rq:queue:{keys.queue_name(parts.MODEL)}") == 0


def test_erasures_are_the_admins_of_their_tenant(keyed: KeyedGateway) -> None:
    with keyed.http("lab", Scope.ADMIN) as admin, keyed.http("lab", Scope.GENERATE) as other_scope:
        made = admin.post("/erasures", json={**UCE, "name": "mine"})
        address = made.headers["Location"]
        for method, path in (("POST", "/erasures"), ("GET", "/erasures"), ("GET", address), ("DELETE", address)):
            refused = other_scope.request(method, path, json=UCE if method == "POST" else None)
            assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
        for name, body in (("promote", {}), ("retire", {"reason": "old"})):
            refused = other_scope.post(f"/variants/{parts.VARIANT.name}/{name}", json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "missing_scope")
        with keyed.http("elsewhere", Scope.ADMIN) as stranger:
            for found in (stranger.get(address), stranger.delete(address), stranger.get(f"{address}/events")):
                assert (found.status_code, found.json()["code"]) == (404, "job_not_found")
            assert stranger.get("/erasures").json()["erasures"] == []
        # neither kind of job is found where the other is
        assert other_scope.get(address.replace("erasures", "jobs")).status_code == 404
        picture = other_scope.post("/generate", json={"prompt": "a quiet street"}).headers["Location"]
        assert admin.get(picture.replace("jobs", "erasures")).status_code == 404
        admin.delete(address)


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("none/promote", {}, 404, "variant_not_found"),
        ("none/retire", {"reason": "old"}, 404, "variant_not_found"),
        ("sdd-weapons/retire", {}, 422, "invalid_request"),
        ("sdd-weapons/retire", {"reason": "  "}, 422, "invalid_request"),
        ("sdd-weapons/promote", {"force": ""}, 422, "invalid_request"),
        ("sdd-weapons/promote", {"model": "none"}, 422, "invalid_request"),
        ("sdd-weapons/promote", {"reason": "x"}, 422, "invalid_request"),
    ],
)
def test_a_status_that_cannot_be_changed_is_refused(
    http: httpx.Client, path: str, body: dict[str, Any], status: int, code: str
) -> None:
    answer = http.post(f"/variants/{path}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_nobody_waits_for_a_variant_once_the_client_has_hung_up(http: httpx.Client, redis: "Redis") -> None:
    with on_the_line(http, f"/variants/{parts.VARIANT.name}/retire", {"reason": "old"}):
        assert eventually(lambda: "seemly_event_listeners 1.0" in http.get("/metrics").text)
    assert eventually(lambda: "seemly_event_listeners 0.0" in http.get("/metrics").text, LONGEST_S - 4)
    assert redis.zcard(keys.ACCEPTED) == 1  # what was asked for is still to be done


def test_a_webhook_leads_to_the_erasure(http: httpx.Client, redis: "Redis") -> None:
    made = http.post("/erasures", json=UCE).json()
    job = ErasureJob.model_validate_json(redis.hget(keys.job_key(made["id"]), "job"))
    redis.hset(keys.job_key(job.id), "webhook_url", "https://app.example/")
    failed = Ended(status=Status.FAILED, error=JobError(code="diverged", message="the loss is nan"))
    touched = [keys.job_key(job.id), keys.ACCEPTED, keys.events_key(job.id)]
    assert redis.eval(record.END_QUEUED, 3, *touched, "failed", failed.model_dump_json(), "1.5", 60) == "queued"
    message = message_of(redis.hgetall(keys.delivery_key(f"msg_{job.id}")), "https://pictures.example")
    assert (message.type, message.data.error_code) == ("job.failed", "diverged")
    assert message.data.url == f"https://pictures.example/erasures/{job.id}"
    told = http.get(f"/erasures/{job.id}").json()
    assert (told["status"], told["error"]["code"]) == ("failed", "diverged")
