"""Old results under a policy that was tightened since: what is read, what a person decides on, and what that covers."""

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest

from contract import keys
from contract.at_rest import PromptForm
from contract.result import ReproducedPicture, Reproduction
from contract.review import review_id
from contract.verdict import Verdict
from service.api_keys import Scope
from tests.service import parts
from tests.service.conftest import KeyedGateway
from tests.service.test_bad_input import problem
from tests.service.test_reviews import Desk, at_desk, decided, png

POLICIES = count()


@pytest.fixture
def desk(keyed: KeyedGateway) -> Iterator[Desk]:
    with at_desk(keyed) as desk:
        yield desk


@pytest.fixture(scope="module")
def admin(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http("operators", Scope.ADMIN) as client:
        yield client


def tighten(admin: httpx.Client, desk: Desk, output: dict[str, Any] | None = None, **fields: Any) -> None:
    """Put the desk's tenant under another policy."""
    name = f"since-{next(POLICIES)}"
    floor = {"output": {"method": "filter", **output}} if output else {}
    policy = {"id": name, "version": 1, "floor": floor, **fields}
    assert admin.post("/policies", json=policy).status_code == 201
    answer = admin.put(f"/tenants/{desk.tenant}/policy", json={"enforce": {"id": name, "version": 1}})
    assert answer.status_code == 200, answer.text


def test_what_is_held_is_read_shown_and_decided_on_under_the_policy_of_now(admin: httpx.Client, desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW)
    tighten(admin, desk, {"action": "block"})
    [picture] = desk.app.get(f"/jobs/{job_id}").json()["images"]
    assert (picture["verdict"], picture["action"], picture["url"]) == ("blocked", "block", None)
    shown = desk.first.get(f"/reviews/{review_id(job_id, 0)}").json()
    assert (shown["state"], shown["verdict"], shown["action"]) == ("waiting", "blocked", "block")
    done = decided(desk.first, review_id(job_id, 0), "approve").raise_for_status().json()
    assert (done["state"], done["verdict"]) == ("approved", "passed")
    assert desk.app.get(f"/jobs/{job_id}/images/0").content == png(0)


def test_an_approval_covers_what_was_found_under_the_policy_of_its_moment(admin: httpx.Client, desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW, Verdict.PASSED)
    rule = {"name": "weapon", "threshold": 0.05, "action": "block"}
    tighten(admin, desk, {"action": "annotate", "rules": [rule]})
    shown = desk.first.get(f"/reviews/{review_id(job_id, 0)}").json()
    assert (shown["verdict"], shown["concepts"][0]["threshold"]) == ("blocked", 0.05)
    assert "over its threshold of 0.05" in shown["reasons"][0]
    decided(desk.first, review_id(job_id, 0), "approve").raise_for_status()
    view = desk.app.get(f"/jobs/{job_id}").json()
    assert [one["verdict"] for one in view["images"]] == ["passed", "blocked"]
    told = desk.told(job_id, 0)  # as read now, the other picture too
    assert (told["status"], told["type"]) == (view["status"], "job.partial")
    assert [one["verdict"] for one in json.loads(told["images"])] == ["passed", "blocked"]
    appealed = desk.app.post(f"/jobs/{job_id}/appeal", json={"index": 1, "reason": "a toy"})
    assert appealed.status_code == 202, appealed.text
    address = desk.first.get(f"/reviews/{review_id(job_id, 1)}").json()["picture_url"]
    assert desk.first.get(address).content == png(1)
    decided(desk.first, review_id(job_id, 1), "approve").raise_for_status()
    assert desk.app.get(f"/jobs/{job_id}").json()["status"] == "succeeded"
    tighten(admin, desk, prompt_rules={"lists": [{"name": "streets", "words": ["street"]}]})
    assert {one["verdict"] for one in desk.app.get(f"/jobs/{job_id}").json()["images"]} == {"blocked"}
    again = desk.app.post(f"/jobs/{job_id}/appeal", json={"index": 1, "reason": "a toy"})
    assert "/reproduce" in problem(again)["detail"]


def test_what_was_never_scored_cannot_be_approved_and_can_be_rejected(admin: httpx.Client, desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW)
    tighten(admin, desk, {"concepts": [{"name": "blade", "text": "a blade", "threshold": 0.2}]})
    shown = desk.first.get(f"/reviews/{review_id(job_id, 0)}").json()
    assert (shown["verdict"], "not scored for" in shown["reasons"][-1]) == ("error", True)
    refused = problem(decided(desk.first, review_id(job_id, 0), "approve"))
    assert [error["field"] for error in refused["errors"]] == ["decision"]
    assert "not scored for what the policy now demands: blade" in refused["errors"][0]["message"]
    assert decided(desk.first, review_id(job_id, 0), "reject").raise_for_status().json()["state"] == "rejected"


def test_of_two_people_both_know_of_all_that_is_found(admin: httpx.Client, desk: Desk) -> None:
    tighten(admin, desk, reviewers=2)
    approved = review_id(desk.held(Verdict.REVIEW), 0)
    assert decided(desk.first, approved, "approve").json()["state"] == "second"
    tighten(admin, desk, reviewers=2, prompt_rules={"lists": [{"name": "streets", "words": ["street"]}]})
    assert decided(desk.second, approved, "approve").json()["state"] == "second"  # the first did not know of the list
    assert problem(decided(desk.second, approved, "approve"))["code"] == "another_person_needed"
    done = decided(desk.first, approved, "approve").json()
    assert (done["state"], done["verdict"]) == ("approved", "passed")
    assert [one["concepts"] for one in done["opinions"]] == [["weapon"], *[["weapon", "list streets"]] * 2]


def test_a_word_that_is_listed_later_holds_for_old_results(admin: httpx.Client, desk: Desk) -> None:
    job_id = desk.held(Verdict.PASSED)
    tighten(admin, desk, prompt_rules={"lists": [{"name": "streets", "words": ["street"]}]})
    [picture] = desk.app.get(f"/jobs/{job_id}").json()["images"]
    assert (picture["verdict"], picture["action"]) == ("blocked", "block")
    assert picture["reasons"][0].startswith("prompt: prompt holds words that the policy 'since-")
    assert picture["reasons"][0].endswith("lists as streets")
    assert desk.app.get(f"/jobs/{job_id}/images/0").status_code == 404
    tighten(admin, desk, prompt_rules={"lists": [{"name": "harbours", "words": ["harbour"]}]})
    assert desk.app.get(f"/jobs/{job_id}").json()["images"][0]["verdict"] == "passed"


@pytest.mark.parametrize("form", PromptForm)
def test_a_job_made_again_leaves_of_its_prompt_what_the_policy_of_now_lets_rest(
    admin: httpx.Client, desk: Desk, form: PromptForm
) -> None:
    before = PromptForm.DROPPED if form is PromptForm.KEPT else PromptForm.KEPT
    tighten(admin, desk, prompts=before)
    job_id = desk.held(Verdict.PASSED)
    tighten(admin, desk, prompts=form)
    answer = desk.app.post(f"/jobs/{job_id}/reproduce")
    assert answer.status_code == 202, answer.text
    _, job = parts.take(desk.keyed.redis, answer.json()["id"])
    assert job.prompt_at_rest.form is form
    assert (job.prompt_at_rest.prompt == job.prompt) is (form is PromptForm.KEPT)
    assert (job.prompt_at_rest.prompt is None) is (form is PromptForm.DROPPED)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (
            {"output": {"method": "filter", "concepts": [{"name": "hat", "text": "a hat", "threshold": 0.9}]}},
            (403, "forbidden_by_policy", "together with those of the policy they are 65 of at most 64"),
        ),
        (
            {"weights": {"method": "erased", "variant": "gone"}},
            (409, "not_reproducible", "safety.weights.variant is not a variant here; available: sdd-weapons"),
        ),
    ],
)
def test_what_cannot_be_made_again_by_now_says_why(
    admin: httpx.Client, desk: Desk, asked: dict[str, Any], told: tuple[int, str, str]
) -> None:
    job_id = desk.held(Verdict.PASSED)
    record = keys.job_key(job_id)
    job = json.loads(str(desk.keyed.redis.hget(record, "job"))) | {"requested": asked, "plan": asked}
    desk.keyed.redis.hset(record, "job", json.dumps(job))
    many = [{"name": f"concept {number}", "text": "a knife", "threshold": 0.2} for number in range(64)]
    tighten(admin, desk, {"concepts": many})
    answer = desk.app.post(f"/jobs/{job_id}/reproduce")
    status, code, words = told
    assert (answer.status_code, problem(answer)["code"]) == (status, code)
    assert words in problem(answer)["detail"]


def test_nothing_is_told_of_pixels_that_are_withheld_by_now(admin: httpx.Client, desk: Desk) -> None:
    job_id = desk.held(Verdict.PASSED, Verdict.PASSED)
    record = keys.job_key(job_id)
    result = json.loads(str(desk.keyed.redis.hget(record, "result")))
    numbers = {"same_pixels": False, "max_difference": 9, "mean_difference": 0.5, "different_share": 0.1}
    told = [ReproducedPicture(index=index, verdict_before=Verdict.PASSED, **numbers) for index in range(2)]
    reproduction = Reproduction(of="0" * 32, same_weights=True, images=tuple(told))
    result["reproduction"] = reproduction.model_dump(mode="json")
    plan = {"label": "filter", "safety": result["safety"], "unet_rows": 8, "differences": []}
    result["comparison"] = [{**plan, "index": index, "distance": 7.5 * index} for index in range(2)]
    result["images"][1]["concepts"][0] |= {"score": 0.19, "margin": -0.01}
    desk.keyed.redis.hset(record, "result", json.dumps(result))
    rule = {"name": "weapon", "threshold": 0.15}
    tighten(admin, desk, {"action": "block", "rules": [rule]})
    view = desk.app.get(f"/jobs/{job_id}").json()
    assert [one["verdict"] for one in view["images"]] == ["passed", "blocked"]
    assert [one["distance"] for one in view["comparison"]] == [0, None]
    seen, withheld = view["reproduction"]["images"]
    assert seen == {"index": 0, "verdict_before": "passed", **numbers}
    assert withheld == {"index": 1, "verdict_before": "passed", **dict.fromkeys(numbers)}
