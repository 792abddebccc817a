"""Withheld pictures before a person: who sees them, what a decision does, and that it is done once."""

import hashlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from contract import keys
from contract.audit import ENTRY, Decision, Look
from contract.filter import Action
from contract.job import Job, picture_key, thumbnail_key
from contract.result import Status, status_of
from contract.review import review_id
from contract.verdict import ConceptScore, Verdict, decide
from service.api_keys import KeyRing, Scope
from service.webhooks.signing import SecretRing
from tests.redis_server import running_redis
from tests.service import parts
from tests.service.conftest import KeyedGateway, running_gateway
from tests.service.test_bad_input import problem

TENANTS = count()
HOOK = "https://app.example/"


def png(shade: int) -> bytes:
    file = BytesIO()
    Image.new("RGB", (64, 64), (shade, 0, 0)).save(file, "PNG")
    return file.getvalue()


@dataclass
class Desk:
    """One tenant: an app that makes pictures, two people who review them."""

    keyed: KeyedGateway
    tenant: str
    app: httpx.Client
    first: httpx.Client
    second: httpx.Client
    jobs: list[Job] = field(default_factory=list)

    def held(self, *verdicts: Verdict, action: str = "review") -> str:
        """A finished job whose pictures have these verdicts; those withheld are kept. Its id."""
        body = {"prompt": "a quiet street", "num_images": len(verdicts), "safety": f"filter:{action}"}
        job_id = self.app.post("/generate", json={**body, "webhook_url": HOOK}).raise_for_status().json()["id"]
        attempt, job = parts.take(self.keyed.redis, job_id)
        pictures = []
        for index, verdict in enumerate(verdicts):
            scores = (parts.score(0.1 if verdict is Verdict.PASSED else 0.3),)
            place = self.keyed.gateway.pictures
            if verdict is not Verdict.PASSED:
                place = place / ".withheld"
            path = parts.store_picture(place, job, attempt, index, png(index))
            path.with_name(f"{path.stem}.thumbnail.png").write_bytes(b"thumbnail")
            pictures.append(
                parts.picture(
                    job,
                    index,
                    verdict,
                    concepts=scores,
                    reasons=decide(scores, job.plan.output).reasons,
                    sha256=hashlib.sha256(png(index)).hexdigest(),
                    kept=verdict is not Verdict.PASSED,
                )
            )
        parts.commit(self.keyed.redis, job_id, attempt, parts.result(job, status_of(verdicts), *pictures))
        return str(job_id)

    def blocked_and_gone(self, *concepts: ConceptScore) -> str:
        """A finished job whose one picture is blocked and was not kept. Its id."""
        body = {"prompt": "a quiet street", "webhook_url": HOOK}
        job_id = self.app.post("/generate", json=body).raise_for_status().json()["id"]
        attempt, job = parts.take(self.keyed.redis, job_id)
        blocked = parts.picture(job, 0, Verdict.BLOCKED, concepts=concepts)
        parts.commit(self.keyed.redis, job_id, attempt, parts.result(job, Status.BLOCKED, blocked))
        return str(job_id)

    def on_record(self) -> list[Any]:
        entries = self.keyed.redis.xrange(keys.audit_key(self.tenant))
        return [ENTRY.validate_json(fields["body"]) for _, fields in entries]

    def told(self, job_id: str, index: int | None = None) -> dict[str, str]:
        message = f"msg_{job_id}" if index is None else f"msg_{review_id(job_id, index)}"
        return dict(self.keyed.redis.hgetall(keys.delivery_key(message)))


@contextmanager
def at_desk(keyed: KeyedGateway) -> Iterator[Desk]:
    tenant = f"desk-{next(TENANTS)}"
    info = parts.model_info(actions=tuple(Action))
    parts.announce(keyed.redis, info)
    SecretRing(keyed.redis, "x" * 32, Path()).create(tenant)
    with (
        keyed.http(tenant, Scope.GENERATE) as app,
        keyed.http(tenant, Scope.REVIEW) as first,
        keyed.http(tenant, Scope.REVIEW) as second,
    ):
        while app.get("/models").json()["models"][0]["actions"] != list(Action):  # the gateway looks every second
            time.sleep(0.05)
        yield Desk(keyed, tenant, app, first, second)
    parts.announce(keyed.redis)


@pytest.fixture
def desk(keyed: KeyedGateway) -> Iterator[Desk]:
    with at_desk(keyed) as desk:
        yield desk


def decided(client: httpx.Client, review: str, decision: str, **more: Any) -> httpx.Response:
    return client.post(f"/reviews/{review}", json={"decision": decision, "reason": "a toy", **more})


def test_a_held_picture_is_seen_by_reviewers_only_and_every_look_is_on_record(desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW)
    [listed] = desk.first.get("/reviews").json()["reviews"]
    assert (listed["id"], listed["state"], listed["cause"]) == (review_id(job_id, 0), "waiting", "held")
    assert listed["concepts"][0]["score"] == 0.3
    assert "a quiet street" not in json.dumps(listed)
    assert desk.app.get(listed["picture_url"]).status_code == 403
    assert problem(desk.app.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_withheld"
    view = desk.app.get(f"/jobs/{job_id}?links_for_s=60").json()
    assert (view["images"][0]["sha256"], view["images"][0]["signed_url"]) == (None, None)
    assert desk.first.get(listed["thumbnail_url"]).content == b"thumbnail"
    assert not [entry for entry in desk.on_record() if isinstance(entry, Look)]
    shown = desk.first.get(listed["picture_url"])
    assert (shown.content, shown.headers["Cache-Control"]) == (png(0), "no-store")
    [look] = [entry for entry in desk.on_record() if isinstance(entry, Look)]
    ids = {key.id for key in desk.keyed.ring.all() if key.tenant == desk.tenant}
    assert (look.job, look.index) == (job_id, 0)
    assert look.by.removeprefix("key ") in ids


def test_approval_releases_the_picture_and_tells_the_webhook(desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW, Verdict.REVIEW)
    assert desk.told(job_id)["type"] == "job.review"
    both = {review_id(job_id, index) for index in range(2)}
    assert both <= set(desk.keyed.redis.zrange(keys.PENDING_REVIEWS, 0, -1))
    done = decided(desk.first, review_id(job_id, 1), "approve").raise_for_status().json()
    assert both & set(desk.keyed.redis.zrange(keys.PENDING_REVIEWS, 0, -1)) == {review_id(job_id, 0)}
    assert (done["state"], done["verdict"]) == ("approved", "passed")
    view = desk.app.get(f"/jobs/{job_id}?links_for_s=60").json()
    released = view["images"][1]
    assert (view["status"], released["verdict"], released["url"]) == ("partial", "passed", f"/jobs/{job_id}/images/1")
    assert released["decided"]["reason"] == "a toy"
    assert released["reasons"][-1] == "passed by a person's decision: a toy"
    assert desk.app.get(released["url"]).content == png(1)
    assert httpx.get(released["signed_url"]).content == png(1)
    told = desk.told(job_id, 1)
    assert (told["type"], told["status"]) == ("job.review", "partial")  # the other one still waits
    assert json.loads(told["images"])[1]["reasons"] == released["reasons"]
    decided(desk.second, review_id(job_id, 0), "reject").raise_for_status()
    view = desk.app.get(f"/jobs/{job_id}").json()
    assert (view["status"], view["images"][0]["verdict"]) == ("partial", "blocked")
    assert desk.told(job_id, 0)["type"] == "job.partial"
    assert problem(desk.app.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_withheld"
    made = [entry for entry in desk.on_record() if isinstance(entry, Decision)]
    assert [(one.index, one.verdict, one.labels) for one in made] == [
        (1, Verdict.PASSED, {"weapon": False}),
        (0, Verdict.BLOCKED, {"weapon": True}),
    ]
    assert desk.app.get(f"/webhooks/deliveries/msg_{review_id(job_id, 0)}").json()["type"] == "job.partial"


def test_what_is_decided_stays_decided(desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW)
    decided(desk.first, review_id(job_id, 0), "reject").raise_for_status()
    for client in (desk.first, desk.second):
        assert problem(decided(client, review_id(job_id, 0), "approve"))["code"] == "already_decided"
    refused = desk.app.post(f"/jobs/{job_id}/appeal", json={"reason": "please"})
    assert (refused.status_code, problem(refused)["code"]) == (409, "not_appealable")


def test_decisions_made_at_once_lose_nothing(desk: Desk) -> None:
    job_id = desk.held(*[Verdict.REVIEW] * 8)
    with ThreadPoolExecutor(8) as pool:
        jobs = [(client, index) for index in range(8) for client in (desk.first, desk.second)]
        answers = list(pool.map(lambda one: decided(one[0], review_id(job_id, one[1]), "approve"), jobs))
    codes = sorted(answer.status_code for answer in answers)
    again = [one for one, answer in zip(jobs, answers, strict=True) if answer.status_code == 503]
    for client, index in again:
        decided(client, review_id(job_id, index), "approve")
    assert set(codes) <= {200, 409, 503}
    view = desk.app.get(f"/jobs/{job_id}").json()
    assert view["status"] == "succeeded"
    assert [desk.app.get(picture["url"]).content for picture in view["images"]] == [png(index) for index in range(8)]
    made = [entry.index for entry in desk.on_record() if isinstance(entry, Decision)]
    assert sorted(made) == list(range(8))


def test_a_blocked_picture_that_is_kept_is_appealed_once(desk: Desk) -> None:
    job_id = desk.held(Verdict.BLOCKED, Verdict.PASSED, action="block")
    ended = desk.keyed.redis.zscore(keys.ended_jobs_key(desk.tenant), job_id)
    appealed = desk.app.post(f"/jobs/{job_id}/appeal", json={"index": 0, "reason": "a carnival mask"})
    assert (appealed.status_code, appealed.json()["state"]) == (202, "waiting")
    kept_from = desk.keyed.redis.zscore(keys.ended_jobs_key(desk.tenant), job_id)
    again = desk.app.post(f"/jobs/{job_id}/appeal", json={"index": 0, "reason": "please"})
    assert problem(again)["code"] == "not_appealable"
    [listed] = desk.first.get("/reviews", params={"cause": "appeal"}).json()["reviews"]
    assert listed["appeal"] == "a carnival mask"
    assert desk.first.get("/reviews", params={"cause": "held"}).json()["reviews"] == []
    decided(desk.first, listed["id"], "approve", concepts={"weapon": False}).raise_for_status()
    assert ended < kept_from < desk.keyed.redis.zscore(keys.ended_jobs_key(desk.tenant), job_id)
    assert desk.app.get(f"/jobs/{job_id}/images/0").content == png(0)
    assert [entry.kind for entry in desk.on_record()] == ["verdicts", "appeal", "decision"]


def test_a_blocked_picture_that_was_not_kept_is_decided_on_by_the_evidence(desk: Desk) -> None:
    job_id = desk.blocked_and_gone(parts.score(0.3))
    appealed = desk.app.post(f"/jobs/{job_id}/appeal", json={"reason": "a carnival mask"}).raise_for_status().json()
    review = desk.first.get(f"/reviews/{appealed['review_id']}").json()
    assert (review["thumbnail_url"], review["picture_url"]) == (None, None)
    assert (review["concepts"][0]["score"], review["appeal"], review["prompt"]) == (0.3, "a carnival mask", None)
    for shown in ("picture", "thumbnail"):
        answer = desk.first.get(f"/reviews/{review['id']}/{shown}")
        assert "bytes were not kept" in problem(answer)["detail"]
    done = decided(desk.first, review["id"], "approve").raise_for_status().json()
    assert (done["state"], done["verdict"]) == ("approved", "blocked")
    view = desk.app.get(f"/jobs/{job_id}").json()
    [picture] = view["images"]
    assert (view["status"], picture["verdict"], picture["url"]) == ("blocked", "blocked", None)
    assert (picture["decided"]["verdict"], "reproduce" in picture["reasons"][-1]) == ("passed", True)
    assert [one["reasons"][-1] for one in json.loads(desk.told(job_id, 0)["images"])] == [picture["reasons"][-1]]
    *_, decision = desk.on_record()
    assert (decision.verdict, decision.kept, decision.labels) == (
        Verdict.BLOCKED,
        False,
        {},
    )  # nobody saw what is there
    again = desk.app.post(f"/jobs/{job_id}/appeal", json={"reason": "please"})
    assert "that is final" in problem(again)["detail"]
    made = [desk.app.post(f"/jobs/{job_id}/reproduce", headers={"Idempotency-Key": "again"}) for _ in range(2)]
    assert len({answer.raise_for_status().json()["id"] for answer in made}) == 1
    _, job = parts.take(desk.keyed.redis, made[0].json()["id"])
    assert job.original is not None
    assert job.original.overturned == (0,)


def test_a_block_that_is_upheld_on_the_evidence_stays_with_its_reason(desk: Desk) -> None:
    job_id = desk.blocked_and_gone(parts.score(0.3))
    appealed = desk.app.post(f"/jobs/{job_id}/appeal", json={"reason": "please"}).json()
    decided(desk.first, appealed["review_id"], "reject", concepts={"weapon": True}).raise_for_status()
    [picture] = desk.app.get(f"/jobs/{job_id}").json()["images"]
    assert (picture["verdict"], picture["reasons"][-1]) == ("blocked", "blocked by a person's decision: a toy")
    assert desk.on_record()[-1].labels == {"weapon": True}  # what the reviewer said, who may know the picture


def test_overturning_the_block_of_a_prompt_promises_no_picture(desk: Desk) -> None:
    job_id = desk.blocked_and_gone()  # before anything was made
    appealed = desk.app.post(f"/jobs/{job_id}/appeal", json={"reason": "it is a song's title"}).json()
    done = decided(desk.first, appealed["review_id"], "approve").raise_for_status().json()
    assert done["verdict"] == "blocked"
    assert "nothing was made of the prompt" in done["reasons"][-1]


def test_an_appeal_of_what_is_not_there_or_was_never_blocked_says_so(desk: Desk) -> None:
    nothing = desk.app.post(f"/jobs/{desk.blocked_and_gone()}/appeal", json={"index": 5, "reason": "please"})
    assert problem(nothing)["code"] == "picture_not_found"
    passed = desk.app.post(f"/jobs/{desk.held(Verdict.PASSED)}/appeal", json={"reason": "please"})
    assert "verdict is passed" in problem(passed)["detail"]


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedGateway]:
    """A gateway whose policy wants two people."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "strict.yaml").write_text("{id: strict, version: 2, reviewers: 2}")
    with running_redis(folder) as server, parts.client(server.url) as client:
        ring = KeyRing(client, None, folder / "pepper")
        ring.create("first", [Scope.GENERATE])
        settings = {"redis_timeout_s": "20", "policy": str(folder / "strict.yaml")}
        with running_gateway(server.url, folder, **settings) as gateway:
            yield KeyedGateway(gateway, client, ring)


def test_what_waits_for_one_tenant_is_counted_however_soon_anothers_is_forgotten(keyed: KeyedGateway) -> None:
    with at_desk(keyed) as one, at_desk(keyed) as other:
        waiting = review_id(one.held(Verdict.REVIEW), 0)
        keyed.redis.zadd(keys.PENDING_REVIEWS, {waiting: time.time() - 86_400}, xx=True)  # came up a day ago
        other.held(Verdict.REVIEW)  # kept for an hour
        assert keyed.redis.zscore(keys.PENDING_REVIEWS, waiting)
        decided(one.first, waiting, "reject").raise_for_status()
        assert keyed.redis.zscore(keys.PENDING_REVIEWS, waiting) is None


def test_two_people_release_a_picture_and_one_withholds_it(strict: KeyedGateway) -> None:
    with at_desk(strict) as desk:
        job_id = desk.held(Verdict.REVIEW, Verdict.REVIEW)
        approved, rejected = review_id(job_id, 0), review_id(job_id, 1)
        done = decided(desk.first, approved, "approve").raise_for_status().json()
        assert (done["state"], done["verdict"], done["reviewers"]) == ("second", "review", 2)
        assert problem(desk.app.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_withheld"
        assert desk.told(job_id, 0) == {}
        assert problem(decided(desk.first, approved, "approve"))["code"] == "another_person_needed"
        done = decided(desk.second, approved, "approve").raise_for_status().json()
        assert (done["state"], [one["decision"] for one in done["opinions"]]) == ("approved", ["approve"] * 2)
        assert len({one["by"] for one in done["opinions"]}) == 2
        assert desk.app.get(f"/jobs/{job_id}/images/0").content == png(0)
        decided(desk.first, rejected, "approve").raise_for_status()
        assert decided(desk.second, rejected, "reject").raise_for_status().json()["state"] == "rejected"
        made = [(one.index, one.verdict) for one in desk.on_record() if isinstance(one, Decision)]
        assert made == [(0, None), (0, Verdict.PASSED), (1, None), (1, Verdict.BLOCKED)]


def test_reviews_are_listed_page_by_page_and_by_what_they_are(desk: Desk) -> None:
    ids = [review_id(desk.held(Verdict.REVIEW), 0) for _ in range(3)]
    decided(desk.first, ids[0], "approve").raise_for_status()

    def listed(**wanted: Any) -> list[str]:
        return [one["id"] for one in desk.first.get("/reviews", params=wanted).raise_for_status().json()["reviews"]]

    assert listed() == ids[::-1]
    assert listed(state="waiting") == ids[:0:-1]
    assert listed(state=["approved", "rejected"]) == ids[:1]
    assert (listed(concept="weapon"), listed(concept="kitten")) == (ids[::-1], [])
    page = desk.first.get("/reviews", params={"limit": 2}).json()
    assert listed(cursor=page["next_cursor"]) == ids[:1]
    assert listed(since="2999-01-01T00:00:00Z") == []
    for wrong in ({"state": "lost"}, {"cursor": "x"}, {"since": "5"}, {"tenant": "acme"}):
        assert desk.first.get("/reviews", params=wrong).status_code == 422


def test_a_picture_whose_bytes_were_exchanged_or_are_gone_is_not_shown(desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW)
    job = Job.model_validate_json(str(desk.keyed.redis.hget(keys.job_key(job_id), "job")))
    path = desk.keyed.gateway.pictures / ".withheld" / picture_key(job.id, job.tenant, 1, 0, job.output_format)
    path.write_bytes(png(200))
    address = f"/reviews/{review_id(job_id, 0)}/picture"
    assert "not those that were judged" in problem(desk.first.get(address))["detail"]
    path.unlink()
    (path.parent / Path(thumbnail_key(path.name))).unlink()
    for gone in (address, address.replace("picture", "thumbnail")):
        assert problem(desk.first.get(gone))["code"] == "picture_not_found"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"decision": "approve"}, "reason"),
        ({"decision": "approve", "reason": " "}, "reason"),
        ({"decision": "maybe", "reason": "x"}, "decision"),
        ({"decision": "reject", "reason": "x", "concepts": {"kitten": True}}, "concepts"),
        ({"decision": "reject", "reason": "x", "label": "weapon"}, "label"),
    ],
)
def test_a_decision_that_cannot_be_is_refused(desk: Desk, body: dict[str, Any], field: str) -> None:
    refused = desk.first.post(f"/reviews/{review_id(desk.held(Verdict.REVIEW), 0)}", json=body)
    assert refused.status_code == 422
    assert [error["field"] for error in problem(refused)["errors"]] == [field]


def test_a_person_lets_pass_only_what_was_known_then(desk: Desk) -> None:
    job_id = desk.held(Verdict.REVIEW)
    decided(desk.first, review_id(job_id, 0), "approve").raise_for_status()
    record = keys.job_key(job_id)
    result = json.loads(str(desk.keyed.redis.hget(record, "result")))
    assert result["images"][0]["decided"]["concepts"] == ["weapon"]
    result["images"][0]["decided"]["concepts"] = []
    desk.keyed.redis.hset(record, "result", json.dumps(result))
    assert problem(desk.app.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_withheld"
