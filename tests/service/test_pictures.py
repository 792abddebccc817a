"""Bytes of pictures, out of a folder and out of a bucket alike: with a key, and by signed links that need none."""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.job import Job, picture_key
from contract.result import JobError, Result, Status
from contract.verdict import Verdict
from service.api_keys import KeyRing, Pepper, Scope
from tests.redis_server import RedisServer, running_redis
from tests.service import parts
from tests.service.conftest import running_gateway
from tests.service.test_bad_input import problem
from tests.stores import Place, S3Server, place, s3

__all__ = ["place", "s3"]

PUBLIC = "https://pictures.example.org/seemly"


@dataclass(frozen=True)
class Studio:
    """A gateway that wants keys, its store, and a tenant's key."""

    redis: "Redis"
    place: Place
    http: httpx.Client  # with a tenant's key
    stranger: httpx.Client  # with another tenant's
    nobody: httpx.Client  # with none

    def posted(self, **changes: Any) -> tuple[int, Job]:
        """A job that a worker has taken: its attempt, and the job."""
        answer = self.http.post("/generate", json={"prompt": "a midnight harbour", **changes})
        assert answer.status_code == 202, answer.text
        return parts.take(self.redis, answer.json()["id"])

    def store(self, job: Job, attempt: int = 1, index: int = 0, content: bytes = parts.PNG) -> None:
        """What a worker does with a passed picture."""
        self.place.put(picture_key(job.id, job.tenant, attempt, index, job.output_format), content)

    def finished(self, status: Status = Status.SUCCEEDED, pictures: int = 1, **changes: Any) -> Job:
        """A job worked off as a worker does it, its pictures in the store."""
        attempt, job = self.posted(num_images=pictures)
        for index in range(pictures):
            self.store(job, attempt, index)
        made = [parts.picture(job, index, **changes) for index in range(pictures)]
        parts.commit(self.redis, job.id, attempt, parts.result(job, status, *made))
        return job

    def links(self, job: Job, for_s: int = 3600) -> list[str]:
        """Signed links to the job's pictures, as paths on this gateway."""
        answer = self.http.get(f"/jobs/{job.id}", params={"links_for_s": for_s}).raise_for_status()
        links = [picture["signed_url"] for picture in answer.json()["images"]]
        assert all(link.startswith(f"{PUBLIC}/jobs/") for link in links)
        return [link.removeprefix(PUBLIC) for link in links]


@pytest.fixture(scope="session")
def studio(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    with running_redis(folder) as server, parts.client(server.url) as redis:
        ring = KeyRing(redis, None, folder / "pepper")
        shown = [ring.create(tenant, [Scope.GENERATE])[0] for tenant in ("painter", "stranger")]
        patient = {"redis_timeout_s": "20", "limit_requests": "100000/minute"}
        with running_gateway(server.url, folder, store_url=place.url, public_url=PUBLIC, **patient) as gateway:
            parts.announce(redis)
            parts.announce_worker(redis, lease_s=3600)
            bearers = [{"Authorization": f"Bearer {key}"} for key in shown]
            clients = [httpx.Client(base_url=gateway.url, headers=bearer, timeout=30) for bearer in (*bearers, {})]
            yield Studio(redis, place, *clients)
            for client in clients:
                client.close()


def test_a_passed_picture_can_be_read(studio: Studio) -> None:
    url = studio.http.get(f"/jobs/{studio.finished().id}").json()["images"][0]["url"]
    answer = studio.http.get(url)
    assert (answer.status_code, answer.content) == (200, parts.PNG)
    assert answer.headers["Content-Type"] == "image/png"
    assert answer.headers["ETag"] == f'"{hashlib.sha256(parts.PNG).hexdigest()}"'
    assert answer.headers["Cache-Control"] == "private"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert studio.http.get(url, headers={"If-None-Match": answer.headers["ETag"]}).status_code == 304


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (Status.BLOCKED, {"verdict": Verdict.BLOCKED, "concepts": (parts.score(0.3),), "reasons": ("a weapon",)}),
        (Status.BLOCKED, {"verdict": Verdict.REVIEW, "concepts": (parts.score(0.3),)}),
        (Status.FAILED, {"verdict": Verdict.ERROR, "error": JobError(code="invalid_output", message="NaN.")}),
        # what a wrong or forged worker might commit
        (Status.SUCCEEDED, {"concepts": (parts.score(0.3),)}),
        (Status.SUCCEEDED, {"concepts": ()}),
        (Status.SUCCEEDED, {"concepts": (parts.score(0.3, flagged=False),)}),
        (Status.SUCCEEDED, {"concepts": (parts.score(0.3, margin=-0.1, flagged=False),)}),
        (Status.SUCCEEDED, {"sha256": None}),
        (Status.BLOCKED, {"verdict": Verdict.BLOCKED, "signed_url": "https://elsewhere.example/0.png"}),
    ],
)
def test_a_picture_that_has_not_passed_is_unreachable_although_its_bytes_are_there(
    studio: Studio, status: Status, changes: dict[str, Any]
) -> None:
    job = studio.finished(status, **changes)
    view = studio.http.get(f"/jobs/{job.id}", params={"links_for_s": 60}).json()
    assert view["status"] in ("blocked", "failed")
    (picture,) = view["images"]
    assert picture["verdict"] != "passed"
    assert (picture["url"], picture["signed_url"], picture["sha256"]) == (None, None, None)
    answer = studio.http.get(f"/jobs/{job.id}/images/0")
    assert (answer.status_code, problem(answer)["code"]) == (404, "picture_withheld")
    assert picture["verdict"] in answer.json()["detail"]
    assert parts.PNG not in answer.content


def test_a_picture_of_an_earlier_attempt_is_not_served(studio: Studio) -> None:
    late, job = studio.posted()
    attempt, _ = parts.take(studio.redis, job.id)
    studio.store(job, late, content=b"late and unchecked")
    parts.commit(studio.redis, job.id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    answer = studio.http.get(f"/jobs/{job.id}/images/0")
    assert (answer.status_code, problem(answer)["code"]) == (404, "picture_not_found")


def test_bytes_that_are_not_those_on_record_are_not_served(studio: Studio) -> None:
    job = studio.finished()
    studio.store(job, content=b"something else")
    answer = studio.http.get(f"/jobs/{job.id}/images/0")
    assert (answer.status_code, problem(answer)["code"]) == (404, "picture_not_found")
    assert b"something else" not in answer.content


def test_a_signed_link_needs_no_key_and_leads_to_its_picture_only(studio: Studio) -> None:
    job = studio.finished(pictures=2)
    first, second = studio.links(job)
    assert first != second
    for link in (first, second):
        answer = studio.nobody.get(link)
        assert (answer.status_code, answer.content) == (200, parts.PNG)
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert studio.stranger.get(link).content == parts.PNG  # whoever holds it, whatever else they show
    plain = urlsplit(first).path
    assert problem(studio.nobody.get(plain))["code"] == "unauthenticated"
    assert problem(studio.stranger.get(plain))["code"] == "job_not_found"
    assert studio.http.get(f"/jobs/{job.id}").json()["images"][0]["signed_url"] is None
    for path in ("", "/events", "/explanation.png", "/contact-sheet.png"):
        assert studio.nobody.get(f"/jobs/{job.id}{path}?{urlsplit(first).query}").status_code == 401


def test_a_link_that_was_changed_is_refused(studio: Studio) -> None:
    job, other = studio.finished(pictures=2), studio.finished(pictures=2)
    (link, _), (others, _) = studio.links(job), studio.links(other)
    expires, signature = (parse_qs(urlsplit(link).query)[name][0] for name in ("expires", "signature"))
    wrong = ("B" if signature[0] == "A" else "A") + signature[1:]
    path = f"/jobs/{job.id}/images"
    for changed in (
        f"{path}/1?expires={expires}&signature={signature}",
        f"{path}/0?expires={int(expires) + 1}&signature={signature}",
        f"{path}/0?expires={expires}&signature={wrong}",
        f"{path}/0?expires={expires}&signature={signature}%C3%A9",
        f"{path}/0?expires={expires}&signature={parse_qs(urlsplit(others).query)['signature'][0]}",
        f"{path}/0?signature={signature}",
        f"/jobs/{other.id}/images/0?expires={expires}&signature={signature}",
        f"/jobs/{'0' * 32}/images/0?expires={expires}&signature={signature}",
        f"/jobs/nonsense/images/0?expires={expires}&signature={signature}",
    ):
        answer = studio.nobody.get(changed)
        assert (answer.status_code, problem(answer)["code"]) == (403, "invalid_link"), changed
    for unsigned in (f"{path}/0?expires={expires}", f"{path}/0?expires={expires}&signature="):
        assert studio.nobody.get(unsigned).status_code == 401
    assert problem(studio.nobody.get(f"{path}/0?expires=soon&signature=x"))["errors"][0]["field"] == "expires"


def test_a_link_to_a_job_that_became_another_tenants_is_void(studio: Studio) -> None:
    job = studio.finished()
    (link,) = studio.links(job)
    moved = job.model_copy(update={"tenant": "stranger"})
    studio.redis.hset(keys.job_key(job.id), mapping={"job": moved.model_dump_json(), "tenant": "stranger"})
    studio.store(moved)
    assert problem(studio.nobody.get(link))["code"] == "invalid_link"


def test_a_link_expires(studio: Studio) -> None:
    (link,) = studio.links(studio.finished(), for_s=1)
    assert studio.nobody.get(link).status_code in (200, 410)
    time.sleep(1.1)
    answer = studio.nobody.get(link)
    assert (answer.status_code, problem(answer)["code"]) == (410, "link_expired")


def test_a_picture_that_is_taken_back_is_not_shown_by_the_links_to_it(studio: Studio) -> None:
    job = studio.finished()
    (link,) = studio.links(job)
    assert studio.nobody.get(link).status_code == 200
    record = keys.job_key(job.id)
    result = Result.model_validate_json(studio.redis.hget(record, "result") or "")
    rejected = result.images[0].model_copy(update={"verdict": Verdict.BLOCKED})
    studio.redis.hset(record, "result", result.model_copy(update={"images": (rejected,)}).model_dump_json())
    assert problem(studio.nobody.get(link))["code"] == "picture_withheld"
    studio.redis.delete(record)
    assert problem(studio.nobody.get(link))["code"] == "invalid_link"


@pytest.mark.parametrize("seconds", ["0", "604801", "soon"])
def test_a_link_for_no_time_or_too_long_is_refused(studio: Studio, seconds: str) -> None:
    answer = studio.http.get(f"/jobs/{'0' * 32}", params={"links_for_s": seconds})
    assert [error["field"] for error in problem(answer)["errors"]] == ["links_for_s"]


def test_a_job_that_is_waited_for_comes_with_its_links(studio: Studio) -> None:
    headers = {"Idempotency-Key": "waited-for"}
    body = {"prompt": "a lighthouse"}
    accepted = studio.http.post("/generate", json=body, headers=headers)
    attempt, job = parts.take(studio.redis, accepted.json()["id"])
    studio.store(job, attempt)
    parts.commit(studio.redis, job.id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
    again = studio.http.post(
        "/generate", json=body, params={"links_for_s": 60}, headers={**headers, "Prefer": "wait=20"}
    )
    assert again.status_code == 200
    (picture,) = again.json()["images"]
    assert studio.nobody.get(picture["signed_url"].removeprefix(PUBLIC)).content == parts.PNG


def test_a_service_without_keys_signs_under_a_pepper_of_its_own(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path
) -> None:
    with running_gateway(redis_server.url, tmp_path) as gateway, httpx.Client(base_url=gateway.url) as http:
        job_id = http.post("/generate", json={"prompt": "a harbour"}).json()["id"]
        attempt, job = parts.take(redis, job_id)
        parts.store_picture(gateway.pictures, job, attempt, 0)
        parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
        (picture,) = http.get(f"/jobs/{job_id}", params={"links_for_s": 60}).json()["images"]
        assert picture["signed_url"].startswith(f"{gateway.url}/jobs/{job_id}/images/0?")
        assert http.get(picture["signed_url"]).content == parts.PNG
        changed = http.get(picture["signed_url"].replace("signature=", "signature=x"))
        assert problem(changed)["code"] == "invalid_link"
        assert os.stat(tmp_path / "pepper").st_mode & 0o777 == 0o600
        key, entry = KeyRing(redis, None, tmp_path / "pepper").create("first", [Scope.GENERATE])
        assert Pepper.read(None, tmp_path / "pepper").fits(entry, key)
    redis.delete(keys.API_KEYS)


def test_a_store_that_is_away_is_told_and_makes_the_gateway_unready(
    redis_server: RedisServer, redis: "Redis", s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    parts.announce_worker(redis)
    with running_gateway(redis_server.url, tmp_path / "no-bucket", store_url="s3://nowhere") as gateway:
        told = problem(httpx.get(f"{gateway.url}/healthz/ready"))
        assert (told["code"], told["status"]) == ("not_ready", 503)
        assert "SEEMLY_STORE_URL" in told["detail"]
        assert "there is no such bucket; make it, or name another" in told["detail"]
    bucket = {"store_url": "s3://pictures", "redis_timeout_s": "20"}
    with (
        running_gateway(redis_server.url, tmp_path / "frozen", **bucket) as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        job_id = http.post("/generate", json={"prompt": "a harbour"}).json()["id"]
        attempt, job = parts.take(redis, job_id)
        parts.commit(redis, job_id, attempt, parts.result(job, Status.SUCCEEDED, parts.picture(job, 0)))
        with s3.frozen():
            told = problem(http.get("/healthz/ready"))
            assert "has not answered for 3 s" in told["detail"]
        assert eventually_ready(http)
        assert problem(http.get(f"/jobs/{job_id}/images/0"))["code"] == "picture_not_found"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with running_gateway(redis_server.url, tmp_path / "away", **bucket) as gateway:
        answer = httpx.get(f"{gateway.url}/jobs/{job_id}/images/0", timeout=30)
        assert (answer.status_code, problem(answer)["code"]) == (503, "store_unavailable")
        assert int(answer.headers["Retry-After"]) > 0


def eventually_ready(http: httpx.Client, within_s: float = 20) -> bool:
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if http.get("/healthz/ready").is_success:
            return True
        time.sleep(0.1)
    return False
