"""Policies: the effective plan is the stricter of what was asked for and what is demanded."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.filter import Action, Filter, FilterConcept
from contract.job import Job
from contract.plan import SafetyPlan
from contract.policy import Policy
from service.policy import SHIPPED, load_policy
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import running_gateway
from tests.service.test_bad_input import problem


def policy(**floor: object) -> Policy:
    return Policy(id="test", version=1, floor=SafetyPlan.model_validate(floor))


def test_every_shipped_policy_can_be_loaded_by_its_id() -> None:
    names = sorted(path.stem for path in SHIPPED.glob("*.yaml"))
    assert names == ["default", "production"]
    assert [load_policy(name).id for name in names] == names


def test_an_unknown_policy_is_an_error_that_names_the_shipped_ones() -> None:
    with pytest.raises(FileNotFoundError, match="shipped: default, production"):
        load_policy("lax")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("id: [", "not YAML"),
        ("just words", "JSON object"),
        ("id: mine\nversion: 1\nflor: {}\n", "flor is not a field"),
        ("id: mine\nversion: 1\nforbidden: [nome]\n", "forbidden.0 must be 'none'"),
    ],
)
def test_what_is_wrong_with_a_policy_file_is_told(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"(?s)mine.yaml is not a policy.*{told}"):
        load_policy(str(file))


def test_production_forbids_plain_generation_and_always_filters(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path
) -> None:
    with (
        running_gateway(redis_server.url, tmp_path, policy="production") as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        before = parts.redis_keys(redis)
        for plain in ("none", {}):
            refused = http.post("/generate", json={"prompt": "a harbour", "safety": plain})
            assert (refused.status_code, problem(refused)["code"]) == (403, "forbidden_by_policy")
        renamed = http.post(
            "/generate",
            json={
                "prompt": "a harbour",
                "safety": {"output": {"concepts": [{"name": "weapon", "text": "a kitten", "threshold": 1}]}},
            },
        )
        assert renamed.status_code == 422
        assert problem(renamed)["errors"][0]["field"] == "safety.output.concepts.0.name"
        assert parts.redis_keys(redis) == before
        many = [{"name": f"concept {number}", "text": "a knife", "threshold": 0.2} for number in range(64)]
        full = http.post("/generate", json={"prompt": "a harbour", "safety": {"output": {"concepts": many}}})
        assert full.status_code == 202
        answer = http.post("/generate", json={"prompt": "a harbour", "safety": "sld:max"})
        job = Job.model_validate_json(redis.hget(keys.job_key(answer.json()["id"]), "job"))
        assert job.requested == "sld:max"
        assert job.plan.methods == ("sld", "filter")
        assert job.policy.id == "production"
        assert http.get("/safety/methods").json()["policy"] == "production"


def test_concepts_beyond_those_that_fit_beside_the_policys_are_refused(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path
) -> None:
    demanded = Filter(concepts=(FilterConcept(name="knife", text="a knife", threshold=0.2),))
    file = tmp_path / "knives.yaml"
    file.write_text(policy(output=demanded).model_dump_json())
    with (
        running_gateway(redis_server.url, tmp_path, policy=str(file)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):

        def plan(count: int) -> dict[str, Any]:
            many = [{"name": f"concept {number}", "text": "a knife", "threshold": 0.2} for number in range(count)]
            return {"output": {"concepts": many}}

        def answer(count: int) -> httpx.Response:
            return http.post("/generate", json={"prompt": "a harbour", "safety": plan(count)})

        def compared(*counts: int) -> httpx.Response:
            return http.post("/compare", json={"prompt": "a harbour", "plans": list(map(plan, counts))})

        refused = answer(64)
        assert refused.status_code == 422
        [error] = problem(refused)["errors"]
        assert error["field"] == "safety.output.concepts"
        assert "65 of at most 64; leave some out" in error["message"]
        assert answer(63).status_code == 202
        refused = compared(62, 64, 65)
        assert refused.status_code == 422
        told = problem(refused)["errors"]
        assert [error["field"] for error in told] == ["plans.2.output.concepts"]  # no plan may have 65 of its own
        refused = compared(62, 64, 63)
        assert refused.status_code == 422
        [error] = problem(refused)["errors"]
        assert error["field"] == "plans.1.output.concepts"
        assert "65 of at most 64; leave some out" in error["message"]
        assert compared(62, 63).status_code == 202


def test_where_the_floor_regenerates_a_compare_blocks(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path
) -> None:
    file = tmp_path / "again.yaml"
    file.write_text(policy(output=Filter(action=Action.REGENERATE, regenerations=3)).model_dump_json())
    parts.announce(redis, parts.model_info(actions=tuple(Action)))
    with (
        running_gateway(redis_server.url, tmp_path, policy=str(file)) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        asked = {"prompt": "a harbour", "plans": ["none", "filter:review", "sld:max"]}
        answer = http.post("/compare", json=asked)
        assert answer.status_code == 202, answer.text
        job = Job.model_validate_json(redis.hget(keys.job_key(answer.json()["id"]), "job"))
        acts = [each.plan.output and each.plan.output.actions for each in job.compared]
        assert acts == [{Action.BLOCK}, {Action.REVIEW}, {Action.BLOCK}]
        refused = http.post("/compare", json=asked | {"plans": ["none", "filter:regenerate"]})
        assert refused.status_code == 422
        [error] = problem(refused)["errors"]
        assert error["field"] == "plans.1.output.action"
        assert "choose another action, such as 'block'" in error["message"]
