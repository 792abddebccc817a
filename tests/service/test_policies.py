"""Policies over HTTP: versions, assignments, and what a tenant under one gets."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from contract import keys
from contract.audit import ENTRY, JudgedText
from contract.plan import SafetyPlan
from contract.policy import Policy
from contract.prompt_rules import BlockList, PromptRules
from contract.result import Status
from contract.verdict import Verdict
from service.api_keys import Scope
from service.policies import Policies
from service.problems import InvalidRequest, NotReady, PolicyExists
from service.silence import Silence
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import KeyedGateway
from tests.service.test_bad_input import problem

STREET = {"prompt": "a quiet street"}
DEFAULT = {"id": "default", "version": 1}


@pytest.fixture
def admin(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http("operators", Scope.ADMIN) as client:
        yield client


@pytest.fixture
def ruled(keyed: KeyedGateway, admin: httpx.Client) -> Iterator[httpx.Client]:
    """A tenant whose policy the test sets; it has none afterwards."""
    with keyed.http("ruled", Scope.GENERATE) as client:
        yield client
    assert admin.delete("/tenants/ruled/policy").status_code == 204


def put_under(admin: httpx.Client, policy_id: str, **fields: Any) -> None:
    policy = {"id": policy_id, "version": 1, **fields}
    assert admin.post("/policies", json=policy).status_code in (200, 201)
    answer = admin.put("/tenants/ruled/policy", json={"enforce": {"id": policy_id, "version": 1}})
    assert (answer.status_code, answer.json()["enforce"]["id"]) == (200, policy_id), answer.text


def finished(keyed: KeyedGateway, http: httpx.Client, **score: Any) -> str:
    """A job of which a worker has passed the one picture."""
    job_id: str = http.post("/generate", json={**STREET, "safety": "filter:annotate"}).json()["id"]
    attempt, job = parts.take(keyed.redis, job_id)
    parts.store_picture(keyed.gateway.pictures, job, attempt, 0)
    picture = parts.picture(job, 0, concepts=(parts.score(detector="checker", **score),))
    parts.commit(keyed.redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, picture))
    return job_id


def test_a_version_is_added_once_and_never_changes(admin: httpx.Client) -> None:
    first = {"id": "versions", "version": 1, "forbidden": ["none"]}
    added = admin.post("/policies", json=first)
    assert (added.status_code, added.headers["Location"]) == (201, "/policies/versions?version=1")
    assert admin.post("/policies", json=first).status_code == 200
    changed = admin.post("/policies", json={**first, "forbidden": []})
    assert (changed.status_code, problem(changed)["code"]) == (409, "policy_exists")
    assert admin.post("/policies", json={**first, "version": 2, "forbidden": []}).status_code == 201
    assert admin.get("/policies/versions").json()["version"] == 2
    assert admin.get("/policies/versions", params={"version": 1}).json()["forbidden"] == ["none"]
    listed = admin.get("/policies").json()
    assert listed["own"] == DEFAULT
    assert [p["version"] for p in listed["policies"] if p["id"] == "versions"] == [1, 2]
    for missing in ("/policies/none-such", "/policies/versions?version=3"):
        assert problem(admin.get(missing))["code"] == "policy_not_found"
    unknown = admin.put("/tenants/ruled/policy", json={"enforce": {"id": "versions", "version": 3}})
    assert problem(unknown)["code"] == "policy_not_found"


@pytest.mark.parametrize(
    ("fields", "field", "told"),
    [
        ({"allowed": ["sld:mild"]}, "allowed.0", "unknown preset 'mild'"),
        ({"bounds": {"steps": {"min": 9, "max": 3}}}, "bounds.steps", "min 9 is over max 3"),
        ({"floor": {"output": {"rules": [{"name": "a", "loosens": True}]}}}, "floor.output.rules.0.loosens", "nothing"),
        ({"florr": {}}, "florr", "is not a field"),
    ],
)
def test_what_is_wrong_with_a_policy_is_told(
    admin: httpx.Client, fields: dict[str, Any], field: str, told: str
) -> None:
    answer = admin.post("/policies", json={"id": "wrong", "version": 1, **fields})
    assert answer.status_code == 422
    [error] = problem(answer)["errors"]
    assert error["field"] == field
    assert told in error["message"]


def test_a_tenant_gets_what_its_policy_allows_and_others_are_not_touched(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client
) -> None:
    put_under(
        admin,
        "narrow",
        allowed=["filter", "sld:strong"],
        bounds={"num_images": {"max": 2}, "steps": {"min": 10}},
        floor={"output": {"method": "filter", "action": "annotate", "rules": [{"name": "weapon", "threshold": 0.1}]}},
    )
    for safety in ("none", "sld:max", ["sld:strong", "safree"], {"guidance": {"method": "sld", "scale": 1}}):
        refused = ruled.post("/generate", json={**STREET, "safety": safety})
        assert (refused.status_code, problem(refused)["code"]) == (403, "forbidden_by_policy"), safety
    refused = ruled.post("/generate", json={**STREET, "num_images": 3, "steps": 9})
    assert refused.status_code == 403
    told = {error["field"]: error["message"] for error in problem(refused)["errors"]}
    assert told == {
        "steps": "must be at least 10 under the policy 'narrow'",
        "num_images": "must be at most 2 under the policy 'narrow'",
    }
    forbidden = {each["name"] for each in ruled.get("/safety/methods").json()["methods"] if each["forbidden"]}
    assert forbidden == {"safree", "erased", "negative", "sega", "unguidance"}
    accepted = ruled.post("/generate", json={**STREET, "safety": "sld:strong"})
    _, job = parts.take(keyed.redis, accepted.json()["id"])
    assert job.policy.id == "narrow"
    assert job.plan.output is not None
    assert [rule.threshold for rule in job.plan.output.rules] == [0.1]
    unknown = {"output": {"rules": [{"name": "kittens", "action": "block"}]}}
    refused = ruled.post("/generate", json={**STREET, "safety": unknown})
    assert problem(refused)["errors"][0]["field"] == "safety.output.rules.0.name"
    with keyed.http("first", Scope.GENERATE) as other:
        assert other.post("/generate", json={**STREET, "safety": "none"}).status_code == 202


def test_a_policy_for_what_no_detector_scores_is_not_served(admin: httpx.Client, ruled: httpx.Client) -> None:
    put_under(admin, "unscored", floor={"output": {"rules": [{"name": "kittens", "action": "block"}]}})
    refused = ruled.post("/generate", json=STREET)
    assert (refused.status_code, problem(refused)["code"]) == (503, "policy_not_served")


@pytest.mark.parametrize(
    ("policy_id", "output", "verdict"),
    [
        ("tighter", {"rules": [{"name": "weapon", "threshold": 0.1, "action": "review"}]}, "review"),
        ("blocks", {"action": "block", "rules": [{"name": "weapon", "threshold": 0.1}]}, "blocked"),
        ("asks-more", {"concepts": [{"name": "knife", "text": "a knife", "threshold": 0.2}]}, "error"),
        ("blurs", {"action": "blur", "rules": [{"name": "weapon", "threshold": 0.1}]}, "blocked"),
        ("shows", {"action": "annotate", "rules": [{"name": "weapon", "threshold": 0.1}]}, "passed"),
        ("as-before", {"rules": [{"name": "weapon", "threshold": 0.16}]}, "passed"),
    ],
)
def test_an_old_result_obeys_the_policy_of_today(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client, policy_id: str, output: Any, verdict: str
) -> None:
    """The picture passed at a threshold of 0.2, with a score of 0.15."""
    job_id = finished(keyed, ruled, value=0.15)
    link = ruled.get(f"/jobs/{job_id}", params={"links_for_s": 60}).json()["images"][0]["signed_url"]
    assert httpx.get(link).content == parts.PNG
    put_under(admin, policy_id, floor={"output": output})
    view = ruled.get(f"/jobs/{job_id}", params={"links_for_s": 60}).json()
    [picture] = view["images"]
    assert picture["verdict"] == verdict
    if verdict == "passed":
        assert httpx.get(link).content == ruled.get(picture["url"]).content == parts.PNG
        return
    assert (picture["url"], picture["signed_url"], picture["sha256"]) == (None, None, None)
    assert view["status"] == ("failed" if verdict == "error" else "blocked")
    assert problem(httpx.get(link))["code"] == "picture_withheld"
    assert problem(ruled.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_withheld"
    assert [job["status"] for job in ruled.get("/jobs", params={"limit": 1}).json()["jobs"]] == [view["status"]]
    admin.delete("/tenants/ruled/policy")
    assert httpx.get(link).content == parts.PNG  # nothing was changed at rest


def test_a_version_that_decided_is_not_replaced_and_a_floor_that_cannot_hold_is_refused(
    redis_server: RedisServer, redis: Any
) -> None:
    floor = SafetyPlan.from_short_form("sld:max")

    async def policies(client: "Redis", **fields: Any) -> Policies:
        return Policies(client, Silence(), Policy(id="own", version=1, **fields), floor)

    async def check() -> None:
        async with Redis.from_url(redis_server.url, decode_responses=True, protocol=2) as client:
            in_force = await (await policies(client)).in_force("someone")
            assert in_force.floor == floor
            other = await policies(client, forbidden=("none",))
            with pytest.raises(NotReady, match="raise its version"):
                await other.in_force("someone")
            with pytest.raises(PolicyExists):
                await other.add(Policy(id="own", version=1, description="another"))
            with pytest.raises(InvalidRequest) as refused:
                await other.add(Policy(id="new", version=1, floor=SafetyPlan.from_short_form("sega")))
            assert [error.field for error in refused.value.errors] == ["floor.guidance"]
            assert await other.add(Policy(id="new", version=1, floor=floor))

    asyncio.run(check())


def test_a_policys_words_are_made_ready_once_and_before_anybody_waits_for_them(
    redis_server: RedisServer, redis: Any
) -> None:
    listed = Policy(
        id="listed", version=1, prompt_rules=PromptRules(lists=(BlockList(name="blades", words=("knife",)),))
    )

    async def check() -> None:
        async with Redis.from_url(redis_server.url, decode_responses=True, protocol=2) as client:
            policies = Policies(client, Silence(), Policy(id="own", version=1), SafetyPlan())
            assert await policies.add(listed)
            one, *others = await asyncio.gather(*(policies.version(listed.ref) for _ in range(5)))
            assert "looks" in vars(one.prompt_rules)
            assert all(other is one for other in others)
            assert one == listed

    asyncio.run(check())


def test_listed_words_are_refused_however_they_are_written(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client
) -> None:
    lists = [{"name": "blades", "words": ["knife", "sharp edge"]}]
    put_under(admin, "words", prompt_rules={"lists": lists, "leetspeak": {"1": "il", "3": "e"}})
    for prompt in (
        "a knife",
        "a ｋｎｉｆｅ",
        "a kn\u200bife",
        "a knіfe",
        "a kn1f3",
        "a s\u0336harp EDGE",
        "x " * 30 + "k.n.i.f.e",
    ):
        refused = ruled.post("/generate", json={"prompt": prompt})
        assert (refused.status_code, problem(refused)["code"]) == (403, "prompt_refused"), prompt
        [error] = problem(refused)["errors"]
        assert error["field"] == "prompt"
        assert "'words' lists as blades" in error["message"]
        assert prompt not in refused.text
    negative = {**STREET, "negative_prompt": "a knife"}
    assert ruled.post("/generate", json=negative).status_code == 202
    refused = ruled.post("/generate", json={**negative, "safety": "sld:max"})
    assert problem(refused)["errors"][0]["field"] == "negative_prompt"
    assert ruled.post("/compare", json={"prompt": "a knife", "plans": ["none", "filter"]}).status_code == 403
    assert ruled.post("/generate", json={"prompt": "a penknife, a jackknife"}).status_code == 202


@pytest.mark.parametrize("form", ["kept", "hashed", "dropped"])
def test_a_refused_prompt_is_on_record_as_prompts_may_rest(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client, form: str
) -> None:
    rules = {"lists": [{"name": "blades", "words": ["knife"]}]}
    put_under(admin, f"rest-{form}", prompts=form, prompt_rules=rules)
    assert ruled.post("/generate", json={"prompt": "a knife"}).status_code == 403
    [(_, fields)] = keyed.redis.xrevrange(keys.audit_key("ruled"), count=1)
    entry = ENTRY.validate_json(fields["body"])
    assert isinstance(entry, JudgedText)
    assert (entry.field, entry.verdict, entry.lists, entry.policy.id) == (
        *("prompt", Verdict.BLOCKED, ("blades",)),
        f"rest-{form}",
    )
    assert (entry.text.form, entry.text.prompt is None) == (form, form == "dropped")
    assert (entry.text.prompt == "a knife") is (form == "kept")


def test_a_refused_prompt_is_what_openais_clients_know_as_a_blocked_one(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client
) -> None:
    put_under(admin, "words-of-openai", prompt_rules={"lists": [{"name": "blades", "words": ["knife"]}]})
    before = refused_prompts(admin)
    for stream in (False, True):
        answer = ruled.post("/v1/images/generations", json={"prompt": "a knife", "stream": stream})
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert (error["code"], error["type"], error["param"]) == (
            *("moderation_blocked", "image_generation_user_error"),
            "prompt",
        )
        assert "lists as blades" in error["message"]
    assert refused_prompts(admin) == before + 2
    moderated = ruled_moderations(keyed, "a knife")
    assert [one["flagged"] for one in moderated] == [True]  # a result, not an error
    put_under(admin, "methods-of-openai", forbidden=["sld"])
    answer = ruled.post("/v1/images/generations", json={"prompt": "a street", "safety": "sld"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden_by_policy")


def test_refused_prompts_use_up_their_end_users_budget(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client
) -> None:
    put_under(admin, "words-counted", prompt_rules={"lists": [{"name": "blades", "words": ["knife"]}]})
    keyed.redis.hset(keys.TENANTS, "counted", '{"refusals": 2}')
    with keyed.http("counted", Scope.GENERATE) as http:
        admin.put("/tenants/counted/policy", json={"enforce": {"id": "words-counted", "version": 1}})
        asked = {"prompt": "a knife", "end_user": "mallory"}
        for _ in range(2):
            assert problem(http.post("/generate", json=asked))["code"] == "prompt_refused"
        for prompt in ("a knife", "a quiet street"):
            answer = http.post("/generate", json={**asked, "prompt": prompt})
            assert (answer.status_code, problem(answer)["code"]) == (429, "too_many_refusals")
            assert 3500 < int(answer.headers["Retry-After"]) <= 3600
        assert http.post("/generate", json={"prompt": "a quiet street", "end_user": "alice"}).status_code == 202
        assert problem(http.post("/generate", json={"prompt": "a knife"}))["code"] == "prompt_refused"


def test_a_negative_floor_is_not_faded_out(keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client) -> None:
    """The model's default guidance is 7.5."""
    weak = ruled.post("/generate", json={**STREET, "guidance_scale": 2}).json()["id"]
    attempt, job = parts.take(keyed.redis, weak)
    parts.commit(keyed.redis, weak, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    floor = {"guidance": {"method": "negative"}}
    put_under(admin, "pushes-away", floor=floor)
    for at, body in (("/generate", STREET), ("/compare", {"prompt": "a street", "plans": ["none", "filter"]})):
        refused = ruled.post(at, json={**body, "guidance_scale": 1.0001})
        assert (refused.status_code, problem(refused)["errors"][0]["field"]) == (422, "guidance_scale")
        assert "at least the model's default, 7.5" in problem(refused)["errors"][0]["message"]
        for scale in (7.5, 9, None):
            assert ruled.post(at, json={**body, "guidance_scale": scale}).status_code == 202
    refused = ruled.post(f"/jobs/{weak}/reproduce")
    assert (refused.status_code, problem(refused)["errors"][0]["field"]) == (403, "guidance_scale")
    put_under(admin, "pushes-less", floor=floor, bounds={"guidance_scale": {"min": 3}})
    assert ruled.post("/generate", json={**STREET, "guidance_scale": 3}).status_code == 202
    assert ruled.post("/generate", json={**STREET, "guidance_scale": 2.9}).status_code == 403


def refused_prompts(admin: httpx.Client) -> int:
    found = re.search(r'^seemly_prompts_refused_total\{field="prompt"\} (\d+)', admin.get("/metrics").text, re.M)
    return int(found[1]) if found else 0


def ruled_moderations(keyed: KeyedGateway, text: str) -> list[dict[str, Any]]:
    with keyed.http("ruled", Scope.MODERATE) as http:
        answer = http.post("/v1/moderations", json={"input": text})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["results"])


@pytest.mark.parametrize("detail", ["coarse", "none"])
def test_who_only_makes_pictures_sees_scores_as_the_policy_says(
    keyed: KeyedGateway, admin: httpx.Client, ruled: httpx.Client, detail: str
) -> None:
    job_id = finished(keyed, ruled, value=0.317)
    put_under(admin, f"scores-{detail}", scores=detail, floor={"output": {"method": "filter", "action": "annotate"}})
    with keyed.http("ruled", Scope.GENERATE, Scope.REVIEW) as reviewer:
        [whole] = reviewer.get(f"/jobs/{job_id}").json()["images"]
    assert whole["concepts"][0]["score"] == 0.317
    [picture] = ruled.get(f"/jobs/{job_id}").json()["images"]
    assert (picture["verdict"], picture["url"]) == (whole["verdict"], whole["url"])
    told = [(c["score"], c["threshold"], c["margin"], c["flagged"]) for c in picture["concepts"]]
    assert told == ([(0.3, 0.2, 0.1, True)] if detail == "coarse" else [])
    assert "0.317" not in str(picture)
