"""Score detail: what a policy keeps from keys that only make pictures is told to them nowhere, by no way."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from contract import keys
from contract.detail import ScoreDetail, as_told
from contract.filter import Action, Filter
from contract.result import Discarded, Status
from contract.review import review_id
from contract.steps import TrajectoryRecord
from contract.verdict import Verdict, decide
from service.api_keys import Scope
from service.webhooks.messages import message_of
from tests.service import parts
from tests.service.conftest import KeyedGateway
from tests.service.test_reviews import HOOK, Desk, at_desk, decided

# In every form in which they are told anywhere; no time and no size comes to the like.
EXACT = re.compile(rb"0\.3173|0\.317\b|\+0\.117|\"margin\":0\.117|0\.2873")
SCORED = (parts.score(0.3173), parts.score(0.2873, name="knife", flagged=False, threshold=0.4, margin=-0.113))


@pytest.fixture(params=["coarse", "none"])
def desk(keyed: KeyedGateway, request: pytest.FixtureRequest) -> Iterator[Desk]:
    with at_desk(keyed) as desk, keyed.http("operators", Scope.ADMIN) as admin:
        policy = {"id": f"detail-{request.param}", "version": 1, "scores": request.param, "keep_blocked": True}
        assert admin.post("/policies", json=policy).status_code in (200, 201)
        ref = {"id": policy["id"], "version": 1}
        admin.put(f"/tenants/{desk.tenant}/policy", json={"enforce": ref}).raise_for_status()
        yield desk


def test_who_is_told_no_scores_sets_no_thresholds(desk: Desk) -> None:
    concept = {"name": "fog", "text": "fog", "threshold": 0.2}
    rules = [{"name": "weapon", "action": "blur"}, {"name": "weapon", "threshold": 0.1}]
    for output, named in (
        ({"rules": rules[1:]}, ["rules.0"]),
        ({"concepts": [concept]}, ["concepts.0"]),
        ({"rules": rules[:1]}, []),
    ):
        for at, plan in (("/generate", "safety"), ("/compare", "plans")):
            written = {"output": {"method": "filter", **output}}
            body = {"prompt": "a street", plan: written if plan == "safety" else ["none", written]}
            answer = desk.app.post(at, json=body)
            assert answer.status_code == (422 if named else 202), answer.text
            prefix = "safety" if plan == "safety" else "plans.1"
            told = [error["field"] for error in answer.json().get("errors", [])]
            assert told == [f"{prefix}.output.{name}.threshold" for name in named]


def held(desk: Desk, *, at: str = "/generate", **body: Any) -> str:
    """A job that ended with one blocked picture, made again once, and everything about it on record."""
    wanted = {"prompt": "a quiet street", "safety": "filter", "webhook_url": HOOK}
    job_id = str(desk.app.post(at, json=body or wanted).raise_for_status().json()["id"])
    attempt, job = parts.take(desk.keyed.redis, job_id)
    reasons = decide(SCORED, Filter()).reasons
    place = desk.keyed.gateway.pictures / ".withheld"
    path = parts.store_picture(place, job, attempt, 0)
    path.with_name(f"{path.stem}.thumbnail.png").write_bytes(b"thumbnail")
    picture = parts.picture(
        job,
        0,
        Verdict.BLOCKED,
        action=Action.BLOCK,
        concepts=SCORED,
        reasons=(*reasons, "made again 1 times with other seeds, each time with a concept found"),
        discarded=(Discarded(seed=7, concepts=SCORED[:1], reasons=reasons),),
        trajectory=TrajectoryRecord(
            threshold=0.5, scores={"a knife": (0.3173,)}, corrected_steps=(0,), gradient_norms=(1.0,)
        ),
        sha256="0" * 64,
        kept=True,
    )
    parts.commit(desk.keyed.redis, job_id, attempt, parts.result(job, Status.BLOCKED, picture))
    return job_id


def everything_about(client: httpx.Client, job_id: str) -> dict[str, bytes]:
    """What every route answers that a job's id, or nothing, leads to; also those that are still to be written."""
    paths = client.get("/openapi.json").json()["paths"]
    known = {"job_id": job_id, "index": "0", "review_id": review_id(job_id, 0), "delivery_id": f"msg_{job_id}"}
    found = {}
    for path, methods in paths.items():
        filled = path
        for name, value in known.items():
            filled = filled.replace(f"{{{name}}}", value)
        if "{" in filled or path == "/jobs/{job_id}/reproduce":
            continue
        for method in methods.keys() & {"get", "post"}:
            body = {"reason": "a toy"} if path.endswith("/appeal") else {}
            answer = client.request(method, filled, json=body if method == "post" else None)
            assert answer.status_code < 500, filled
            found[f"{method} {path}"] = answer.content + str(answer.headers).encode()
    return found


def test_no_route_tells_exact_scores_to_who_only_makes_pictures(desk: Desk) -> None:
    job_id = held(desk)
    for told in (everything_about(desk.app, job_id), everything_about(desk.app, job_id)):  # appealed in between
        assert not {where: EXACT.findall(content) for where, content in told.items() if EXACT.search(content)}
        assert {"get /jobs/{job_id}", "get /jobs/{job_id}/events", "get /jobs/{job_id}/images/{index}"} <= told.keys()
        assert b"was found by clip-concepts" in told["get /jobs/{job_id}"]
        assert b"was found by clip-concepts" in told["get /jobs/{job_id}/events"]
        assert b"was found by clip-concepts" in told["get /jobs/{job_id}/images/{index}"]
    whole = everything_about(desk.first, job_id)
    assert EXACT.search(whole["get /reviews"])  # people who review decide on them
    with desk.keyed.http(desk.tenant, Scope.GENERATE, Scope.REVIEW) as both:
        assert EXACT.search(both.get(f"/jobs/{job_id}").content)
        for drawn in ("contact-sheet.png", "explanation.png"):  # words in pixels: drawn from what each may see
            exact, coarse = (client.get(f"/jobs/{job_id}/{drawn}") for client in (both, desk.app))
            assert exact.status_code == 200
            assert exact.headers["ETag"] != coarse.headers.get("ETag")
            assert exact.content != coarse.content


def test_no_webhook_tells_exact_scores_and_every_reason_is_told(desk: Desk) -> None:
    job_id = held(desk)
    found = "custom: 'weapon' was found by clip-concepts"
    desk.app.post(f"/jobs/{job_id}/appeal", json={"reason": "a toy"}).raise_for_status()
    decided(desk.first, review_id(job_id, 0), "approve").raise_for_status()
    ends, decision = desk.told(job_id), desk.told(job_id, 0)
    for fields in (ends, decision):
        assert not EXACT.search(repr(fields).encode())
        assert message_of(fields, None).data.images[0].reasons[0] == found
    assert message_of(ends, None).data.images[0].reasons[1].startswith("made again 1 times")
    assert message_of(decision, None).data.images[0].reasons[2] == "passed by a person's decision: a toy"
    assert EXACT.search(str(desk.keyed.redis.hget(keys.job_key(job_id), "result")).encode())  # at rest they are whole


def test_openais_routes_and_whoever_waits_are_told_no_more(desk: Desk) -> None:
    body = {"prompt": "a quiet street"}
    with desk.keyed.http(desk.tenant, Scope.GENERATE) as app:
        again = {"Idempotency-Key": "once"}
        assert app.post("/v1/images/generations", json=body, headers=again).status_code == 504
        [job] = [one for one in app.get("/jobs").json()["jobs"] if one["status"] == "queued"]
        attempt, taken = parts.take(desk.keyed.redis, job["id"])
        blocked = parts.picture(taken, 0, Verdict.BLOCKED, concepts=SCORED, reasons=decide(SCORED, Filter()).reasons)
        parts.commit(desk.keyed.redis, job["id"], attempt, parts.result(taken, Status.BLOCKED, blocked))
        refused = app.post("/v1/images/generations", json=body, headers=again)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "moderation_blocked")
    assert "was found by" in refused.text
    assert not EXACT.search(refused.content)


def test_detail_takes_numbers_and_nothing_else() -> None:
    reasons = (*decide(SCORED, Filter()).reasons, "blocked by a person's decision: 0.3 is enough")
    picture = parts.picture(parts.some_job(), 0, Verdict.BLOCKED, concepts=SCORED, reasons=reasons)
    assert as_told(picture, ScoreDetail.FULL) == picture
    for detail in (ScoreDetail.COARSE, ScoreDetail.NONE):
        assert as_told(picture, detail).reasons == ("custom: 'weapon' was found by clip-concepts", reasons[-1])
