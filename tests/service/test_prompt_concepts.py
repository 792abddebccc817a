"""What callers are told of prompts that were scored for concepts, and what a policy makes of the scores later."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from contract.filter import Action
from contract.policy import InForce, Policy
from contract.prompt_concepts import TextScore, judged_prompt
from contract.prompt_rules import PromptConcept, PromptRules
from contract.result import Decided, Status
from contract.verdict import Verdict
from service.api_keys import Scope
from service.jobs import released
from service.problems import PolicyNotServed
from service.servable import check_served
from tests.service import parts
from tests.service.conftest import KeyedGateway

TENANT = "read"
KNIFE = {"name": "blade", "text": "a knife", "threshold": 0.4}
TEXT = TextScore(field="prompt", concept="a knife", score=0.317, detector_version="1", detector_sha256="0" * 64)


@pytest.fixture(scope="module")
def admin(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http("operators", Scope.ADMIN) as client:
        yield client


@pytest.fixture(scope="module")
def http(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http(TENANT, Scope.GENERATE) as client:
        yield client


def put_under(admin: httpx.Client, name: str, *concepts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    policy = {"id": name, "version": 1, "prompt_rules": {"concepts": concepts}, **fields}
    assert admin.post("/policies", json=policy).status_code == 201
    answer = admin.put(f"/tenants/{TENANT}/policy", json={"enforce": {"id": name, "version": 1}})
    assert answer.status_code == 200, answer.text
    return policy


@pytest.fixture(scope="module")
def passed(keyed: KeyedGateway, admin: httpx.Client, http: httpx.Client) -> str:
    """A job whose picture was passed, its prompt being under the policy's threshold."""
    put_under(admin, "read-first", KNIFE)
    accepted = http.post("/generate", json={"prompt": "a quiet street", "safety": "filter"})
    assert accepted.status_code == 202, accepted.text
    job_id: str = accepted.json()["id"]
    attempt, job = parts.take(keyed.redis, job_id)
    parts.store_picture(keyed.gateway.pictures, job, attempt, 0)
    result = parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)).model_copy(update={"texts": (TEXT,)})
    parts.commit(keyed.redis, job_id, attempt, result)
    return job_id


def test_scores_of_a_prompt_are_told_with_their_evidence(http: httpx.Client, passed: str) -> None:
    job = http.get(f"/jobs/{passed}").json()
    assert (job["status"], job["images"][0]["verdict"]) == ("succeeded", "passed")
    [told] = job["prompt_concepts"]
    evidence = {key: told[key] for key in ("name", "field", "score", "threshold", "margin", "flagged", "detector")}
    assert evidence == {
        **{"name": "blade", "field": "prompt", "score": 0.317, "threshold": 0.4, "margin": -0.083, "flagged": False},
        "detector": "prompt-concepts",
    }
    assert (told["detector_version"], told["detector_sha256"]) == ("1", "0" * 64)
    assert "a knife" not in http.get(f"/jobs/{passed}").text  # the policy's own words


@pytest.mark.parametrize(
    ("name", "concept", "verdict", "why"),
    [
        ("read-lower", {**KNIFE, "threshold": 0.3}, "blocked", "scored 'blade' at 0.3170, over its threshold of 0.3"),
        ("read-held", {**KNIFE, "threshold": 0.3, "action": "review"}, "review", "scored 'blade' at 0.3170"),
        ("read-other", {**KNIFE, "text": "a gun"}, "error", "not scored for what the policy now demands: blade"),
        ("read-told", {**KNIFE, "threshold": 0.3, "action": "annotate"}, "passed", ""),
    ],
)
def test_an_old_result_is_read_and_replayed_under_the_policy_of_now(
    admin: httpx.Client, http: httpx.Client, passed: str, name: str, concept: dict[str, Any], verdict: str, why: str
) -> None:
    policy = put_under(admin, name, concept)
    [picture] = http.get(f"/jobs/{passed}").json()["images"]
    assert picture["verdict"] == verdict
    assert (picture["url"] is None) is (verdict != "passed")
    assert http.get(f"/jobs/{passed}/images/0").status_code == (200 if verdict == "passed" else 404)
    assert why in str((picture["reasons"], picture["error"]))
    replay = admin.post(f"/policies/{name}/replay", json={"tenant": TENANT, "policy": policy}).json()
    assert (replay["before"], replay["after"]) == ({"passed": 1}, {verdict: 1})
    assert replay["prompts_unknown"] == (1 if verdict == "error" else 0)


@pytest.mark.parametrize("detail", ["coarse", "none"])
def test_scores_of_a_prompt_are_told_as_exactly_as_the_policy_says(
    admin: httpx.Client, http: httpx.Client, passed: str, detail: str
) -> None:
    put_under(admin, f"read-{detail}", {**KNIFE, "threshold": 0.3}, scores=detail)
    told = http.get(f"/jobs/{passed}").json()
    assert [each["score"] for each in told["prompt_concepts"]] == ([0.3] if detail == "coarse" else [])
    assert told["images"][0]["verdict"] == "blocked"
    assert "0.317" not in str([told["images"], told["prompt_concepts"], told["error"]])  # ids and times hold any digits


def test_a_person_who_let_a_picture_pass_knew_of_its_prompt() -> None:
    job = parts.some_job()
    concept = PromptConcept(name="blade", text="a knife", threshold=0.3, action=Action.REVIEW)
    found = judged_prompt([TEXT], PromptRules(concepts=(concept,)))

    def read(*known: str) -> Verdict:
        decided = Decided(verdict=Verdict.PASSED, reason="a kitchen", at=datetime.now(UTC), concepts=known)
        return released(parts.picture(job, 0, decided=decided), job, job.plan, found).verdict

    assert read("blade") is Verdict.PASSED
    assert read() is Verdict.REVIEW


def test_a_model_without_a_text_tower_is_not_served_under_such_a_policy() -> None:
    concept = PromptConcept(name="blade", text="a knife", threshold=0.4)
    in_force = InForce(Policy(id="reads", version=1, prompt_rules=PromptRules(concepts=(concept,))))
    blind, job = parts.model_info(scores_text_concepts=False), parts.some_job()
    with pytest.raises(PolicyNotServed, match="prompts scored for concepts, which takes a CLIP text tower"):
        check_served(job, blind, in_force)
    check_served(job, parts.model_info(), in_force)
    check_served(job, blind, InForce(Policy(id="other", version=1)))
