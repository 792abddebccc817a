"""Uploads that await a person, and what becomes of a request for verdicts that is sent again."""

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.filter import Action
from contract.job import Job
from contract.result import status_of
from contract.review import review_id
from contract.verdict import Verdict, decide
from service.api_keys import Scope
from service.webhooks.messages import message_of
from service.webhooks.signing import SecretRing
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.conftest import GatewayProcess, KeyedGateway
from tests.service.test_bad_input import problem
from tests.service.test_moderate import PICTURE, uploads
from tests.service.test_reviews import HOOK, decided, png

BODY = {"images": [PICTURE], "output": {"action": "review"}}
KEY = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}


@dataclass
class Judge:
    """A gateway on loopback, and a worker that the test plays."""

    http: httpx.Client
    redis: "Redis"
    pictures: Path
    pool: ThreadPoolExecutor

    def sent(self, body: dict[str, Any], verdict: Verdict, *, kept: bool = True, **headers: str) -> dict[str, Any]:
        """The answer to a request for verdicts, each of them this one."""
        answer = self.pool.submit(self.http.post, "/moderate", json=body, headers=headers)
        self.judge(verdict, kept=kept)
        return dict(answer.result().raise_for_status().json())

    def judge(self, verdict: Verdict, *, kept: bool) -> Job:
        """Come to this verdict on the next job's pictures."""
        assert eventually(lambda: self.redis.zcard(keys.ACCEPTED) > 0)
        attempt, job = parts.take(self.redis, self.redis.zrange(keys.ACCEPTED, 0, 0)[0])
        scores = (parts.score(0.1 if verdict is Verdict.PASSED else 0.3),)
        pictures = []
        for index, upload in enumerate(job.uploads):
            kept_here = kept and verdict is not Verdict.PASSED
            if kept_here:
                path = parts.store_picture(self.pictures / ".withheld", job, attempt, index, png(index))
                path.with_name(f"{path.stem}.thumbnail.png").write_bytes(b"thumbnail")
            file = hashlib.sha256(png(index)).hexdigest() if kept_here else upload.sha256
            told = {"concepts": scores, "reasons": decide(scores, job.plan.output).reasons}
            pictures.append(parts.picture(job, index, verdict, sha256=file, kept=kept_here, **told))
        verdicts = tuple(picture.verdict for picture in pictures)
        parts.commit(self.redis, job.id, attempt, parts.result(job, status_of(verdicts), *pictures))
        return job

    def told(self, message: str) -> Any:
        """The message to the webhook."""
        return message_of(self.redis.hgetall(keys.delivery_key(f"msg_{message}")), None)


@pytest.fixture
def judge(http: httpx.Client, redis: "Redis", gateway: GatewayProcess) -> Iterator[Judge]:
    parts.announce(redis, parts.model_info(actions=tuple(Action)))
    SecretRing(redis, None, gateway.pictures.parent / "pepper").create("local")
    assert eventually(lambda: http.get("/models").json()["models"][0]["actions"] == list(Action))
    with ThreadPoolExecutor(2) as pool:
        yield Judge(http, redis, gateway.pictures, pool)


def test_an_upload_comes_before_a_person_and_the_decision_reaches_its_sender(judge: Judge) -> None:
    body = {**BODY, "images": [PICTURE, PICTURE], "webhook_url": HOOK}
    moderation = judge.sent(body, Verdict.REVIEW)
    http, id_ = judge.http, moderation["id"]
    assert [one["review_id"] for one in moderation["images"]] == [review_id(id_, 0), review_id(id_, 1)]
    assert uploads(judge.redis) == []
    first = judge.told(id_)
    assert (first.type, first.data.url) == ("job.review", f"/moderate/{id_}")
    listed = {one["id"]: one for one in http.get("/reviews").json()["reviews"]}
    assert set(listed) == {review_id(id_, 0), review_id(id_, 1)}
    assert http.get(listed[review_id(id_, 1)]["thumbnail_url"]).content == b"thumbnail"
    assert http.get(listed[review_id(id_, 1)]["picture_url"]).content == png(1)
    decided(http, review_id(id_, 0), "approve").raise_for_status()
    decided(http, review_id(id_, 1), "reject").raise_for_status()
    now = http.get(f"/moderate/{id_}").raise_for_status().json()
    assert [(one["verdict"], one["decided"]["reason"]) for one in now["images"]] == [
        ("passed", "a toy"),
        ("blocked", "a toy"),
    ]
    assert (now["flagged"], {one["sha256"] for one in now["images"]}) == (
        True,
        {one["sha256"] for one in moderation["images"]},
    )
    last = judge.told(review_id(id_, 1))
    assert (last.type, [one.verdict for one in last.data.images]) == ("job.partial", ["passed", "blocked"])
    assert [one.url for one in last.data.images] == [None, None]
    assert problem(http.get(f"/jobs/{id_}/images/0"))["code"] == "picture_not_found"  # also of one that passed
    assert http.get(f"/jobs/{id_}/contact-sheet.png").status_code == 404


def test_a_blocked_upload_is_appealed_on_the_evidence_and_the_decision_is_its_verdict(judge: Judge) -> None:
    moderation = judge.sent({"images": [PICTURE]}, Verdict.BLOCKED, kept=False)
    appealed = judge.http.post(f"/moderate/{moderation['id']}/appeal", json={"reason": "our own logo"})
    assert (appealed.status_code, appealed.json()["state"]) == (202, "waiting")
    done = decided(judge.http, appealed.json()["review_id"], "approve").raise_for_status().json()
    assert (done["verdict"], done["picture_url"]) == ("passed", None)
    assert judge.http.get(f"/moderate/{moderation['id']}").json()["flagged"] is False


def test_another_job_is_no_moderation_and_none_is_told_before_its_verdicts(judge: Judge) -> None:
    made = judge.http.post("/generate", json={"prompt": "a cat"}).json()["id"]
    for answer in (
        judge.http.get(f"/moderate/{made}"),
        judge.http.post(f"/moderate/{made}/appeal", json={"reason": "x"}),
    ):
        assert problem(answer)["code"] == "job_not_found"
    judge.redis.zrem(keys.ACCEPTED, made)
    answer = judge.pool.submit(judge.http.post, "/moderate", json=BODY)
    assert eventually(lambda: judge.redis.zcard(keys.ACCEPTED) > 0)
    [waiting] = judge.redis.zrange(keys.ACCEPTED, 0, 0)
    assert problem(judge.http.get(f"/moderate/{waiting}"))["code"] == "not_judged"
    judge.judge(Verdict.PASSED, kept=False)
    assert answer.result().json()["images"][0]["review_id"] is None


def test_under_one_key_pictures_are_judged_once(judge: Judge) -> None:
    answers = [judge.pool.submit(judge.http.post, "/moderate", json=BODY, headers=KEY) for _ in range(2)]
    judge.judge(Verdict.REVIEW, kept=True)
    told = [answer.result().raise_for_status().json() for answer in answers]
    again = judge.http.post(
        "/moderate", content=json.dumps(BODY, indent=1), headers=KEY | {"Content-Type": "application/json"}
    )
    assert told[0] == told[1] == again.json()
    assert len(judge.redis.keys(keys.review_key("*"))) == 1
    assert uploads(judge.redis) == []
    for other in ({"images": [PICTURE]}, {"texts": ["a cat"]}):
        answer = judge.http.post("/moderate", json=other, headers=KEY)
        assert (answer.status_code, problem(answer)["code"]) == (422, "idempotency_key_reused")


def test_texts_under_one_key_are_one_request(judge: Judge) -> None:
    first, again, other = (
        judge.http.post("/moderate", json={"texts": [text]}, headers=KEY) for text in ("a cat", "a cat", "a dog")
    )
    assert first.json() == again.json()
    assert problem(other)["code"] == "idempotency_key_reused"
    assert judge.http.post("/v1/moderations", json={"input": "a cat"}, headers=KEY).status_code == 200
    assert judge.http.post("/generate", json={"prompt": "a cat"}, headers=KEY).status_code == 422


def test_a_key_stands_for_nothing_once_its_pictures_came_to_no_verdicts(keyed: KeyedGateway) -> None:
    with keyed.http("impatient", Scope.MODERATE) as client:
        ids = set()
        for _ in range(2):
            before = set(keyed.redis.zrange(keys.tenant_jobs_key("impatient"), 0, -1))
            answer = client.post("/moderate", json={"images": [PICTURE]}, headers=KEY)
            assert (answer.status_code, problem(answer)["code"]) == (503, "not_judged")
            ids |= set(keyed.redis.zrange(keys.tenant_jobs_key("impatient"), 0, -1)) - before
        assert len(ids) == 2
        assert uploads(keyed.redis) == []
        [canceled, _] = ids
        assert problem(client.get(f"/moderate/{canceled}"))["code"] == "picture_not_found"


def test_another_tenants_moderation_is_not_found(keyed: KeyedGateway) -> None:
    with keyed.http("sender", Scope.MODERATE) as own, keyed.http("curious", Scope.MODERATE) as other:
        own.post("/moderate", json={"images": [PICTURE]})  # nobody judges it
        [job] = keyed.redis.zrange(keys.tenant_jobs_key("sender"), 0, -1)
        assert problem(own.get(f"/moderate/{job}"))["code"] == "picture_not_found"
        for answer in (other.get(f"/moderate/{job}"), other.post(f"/moderate/{job}/appeal", json={"reason": "x"})):
            assert (answer.status_code, problem(answer)["code"]) == (404, "job_not_found")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"texts": ["a cat"], "webhook_url": HOOK}, "body"),
        ({"images": [PICTURE], "webhook_url": "http://127.0.0.1/"}, "webhook_url"),
        ({"images": [PICTURE], "webhook_url": "nowhere"}, "webhook_url"),
    ],
)
def test_a_webhook_that_cannot_be_told_is_refused(judge: Judge, body: dict[str, Any], field: str) -> None:
    answer = judge.http.post("/moderate", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
