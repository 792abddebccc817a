"""Keys: how they are made and kept, and what they open. What every route demands is read from the OpenAPI document."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from contract import keys
from contract.result import Status
from contract.verdict import Verdict
from service.api_keys import KeyRing, NoPepper, NoSuchKey, Pepper, Scope, id_of
from service.app import create_app
from service.settings import Settings
from service.webhooks.signing import SecretRing
from tests.redis_server import RedisServer
from tests.service import parts
from tests.service.conftest import KeyedGateway, running_gateway
from tests.service.test_bad_input import problem

DESCRIBED = create_app(Settings(redis_url="redis://nowhere")).openapi()
OPERATIONS = [
    (method, path, operation)
    for path, operations in DESCRIBED["paths"].items()
    for method, operation in operations.items()
]
NAMED = [pytest.param(*operation, id=f"{operation[0]} {operation[1]}") for operation in OPERATIONS]
WITH_IDS = [
    named
    for named, (_, path, _) in zip(NAMED, OPERATIONS, strict=True)
    # those of erasures and moderations, which are jobs of other kinds: test_erasures.py, test_uploads_before_people.py
    if "_id}" in path and not path.startswith(("/policies", "/erasures", "/moderate"))
]
NOT_FOUND = {"job_not_found", "delivery_not_found", "review_not_found"}
NEED_NO_KEY = {"live", "ready"}


def ask(http: httpx.Client, method: str, path: str, operation: dict[str, Any], **ids: Any) -> httpx.Response:
    """Ask as the document says, with the body of its first example."""
    values = {"job_id": "0" * 32, "index": 0, "policy_id": "default", "tenant": "nobody", **ids}
    values |= {"erasure_id": values["job_id"], "moderation_id": values["job_id"], "name": "nothing"}
    values |= {"delivery_id": f"msg_{values['job_id']}", "review_id": f"{values['job_id']}-1"}
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    examples = [example["value"] for example in body.get("examples", {}).values()]
    return http.request(method, path.format(**values), json=examples[0] if examples else {} if body else None)


def code_of(answer: httpx.Response) -> str:
    """The code of a problem; below /v1, of an error in OpenAI's shape."""
    if answer.request.url.path.startswith("/v1/"):
        code = answer.json()["error"]["code"]
        return {"invalid_api_key": "unauthenticated"}.get(code, code)
    return str(problem(answer)["code"])


def needed_scopes(operation: dict[str, Any]) -> set[str]:
    return {scope for one in operation.get("security", []) for scope in one.get("ApiKey", ())}


@pytest.mark.parametrize(("method", "path", "operation"), NAMED)
def test_every_route_but_health_wants_a_key(
    keyed: KeyedGateway, method: str, path: str, operation: dict[str, Any]
) -> None:
    if operation["operationId"] in NEED_NO_KEY:
        assert "security" not in operation
        assert httpx.request(method, keyed.gateway.url + path).status_code == 200
        return
    instead = [["SignedLink"]] if operation["operationId"] == "get_picture" else []
    assert [list(one) for one in operation["security"]] == [["ApiKey"], *instead]
    for header, challenge in {
        "": "Bearer",
        "Basic c2VlbWx5": "Bearer",
        "Bearer sk-something-else": 'Bearer error="invalid_token"',
        f"Bearer seemly_{'0' * 12}_{'A' * 43}": 'Bearer error="invalid_token"',
    }.items():
        with httpx.Client(base_url=keyed.gateway.url, headers={"Authorization": header} if header else {}) as http:
            answer = ask(http, method, path, operation)
        assert (answer.status_code, code_of(answer)) == (401, "unauthenticated")
        assert answer.headers["WWW-Authenticate"] == challenge


@pytest.mark.parametrize("scope", Scope)
@pytest.mark.parametrize(("method", "path", "operation"), NAMED)
def test_every_route_serves_its_scope_and_no_other(
    keyed: KeyedGateway, method: str, path: str, operation: dict[str, Any], scope: Scope
) -> None:
    needed = needed_scopes(operation)
    assert needed <= set(Scope)
    assert needed or "{" not in path, "a route that takes an id says which scope it needs"
    with keyed.http("scopes", scope) as http:
        answer = ask(http, method, path, operation)
    if needed <= {scope}:
        assert answer.status_code not in (401, 403), answer.text
    else:
        assert (answer.status_code, code_of(answer)) == (403, "missing_scope")
        assert f'scope="{" ".join(needed)}"' in answer.headers["WWW-Authenticate"]


@pytest.fixture(scope="module")
def owned(keyed: KeyedGateway) -> Iterator[tuple[httpx.Client, str]]:
    """A tenant with a finished job, of which a webhook is to be told: one picture can be read, one awaits a person."""
    SecretRing(keyed.redis, "x" * 32, Path()).create("owner")
    with keyed.http("owner", *Scope) as http:
        body = {"prompt": "a quiet street", "num_images": 2, "webhook_url": "https://app.example/"}
        job_id = http.post("/generate", json=body).json()["id"]
        attempt, job = parts.take(keyed.redis, job_id)
        parts.store_picture(keyed.gateway.pictures, job, attempt, 0)
        passed, held = parts.picture(job, 0), parts.picture(job, 1, Verdict.REVIEW, kept=True)
        parts.commit(keyed.redis, job_id, attempt, parts.result(job, Status.PARTIAL, passed, held))
        assert http.get(f"/jobs/{job_id}/images/0").content == parts.PNG
        yield http, job_id


@pytest.mark.parametrize(("method", "path", "operation"), WITH_IDS)
def test_another_tenants_ids_are_not_found(
    keyed: KeyedGateway, owned: tuple[httpx.Client, str], method: str, path: str, operation: dict[str, Any]
) -> None:
    owner, job_id = owned
    own = ask(owner, method, path, operation, job_id=job_id)
    assert own.status_code != 404 or own.json()["code"] not in NOT_FOUND
    with keyed.http("stranger", *Scope) as stranger:
        theirs = ask(stranger, method, path, operation, job_id=job_id)
        nobodys = ask(stranger, method, path, operation)
    assert theirs.status_code == 404
    assert problem(theirs)["code"] in NOT_FOUND
    told = [{**answer.json(), "request_id": ""} for answer in (theirs, nobodys)]
    assert told[0] == told[1]


def test_a_job_belongs_to_the_tenant_of_its_key(keyed: KeyedGateway) -> None:
    with keyed.http("acme", Scope.GENERATE) as one, keyed.http("acme", Scope.GENERATE) as other:
        job_id = one.post("/generate", json={"prompt": "a harbour"}).json()["id"]
        _, job = parts.take(keyed.redis, job_id)
        assert job.tenant == "acme"
        assert other.get(f"/jobs/{job_id}").status_code == 200


def test_a_key_is_kept_as_an_hmac_only(keyed: KeyedGateway) -> None:
    key, entry = keyed.ring.create("kept", [Scope.GENERATE], "laptop")
    assert id_of(key) == entry.id
    kept = keyed.redis.hget(keys.API_KEYS, entry.id)
    assert key.split("_", 2)[2] not in str(keyed.redis.hgetall(keys.API_KEYS))
    assert len(key) == len("seemly__") + 12 + 43
    assert entry.hmac_sha256 in str(kept)
    assert key not in keyed.gateway.log.read_text()


def test_another_secret_under_a_known_id_is_refused(keyed: KeyedGateway) -> None:
    key, _ = keyed.ring.create("kept", [Scope.GENERATE])
    forged = key[:-1] + ("A" if key[-1] != "A" else "B")
    for shown, status in ((key, 200), (forged, 401)):
        headers = {"Authorization": f"Bearer {shown}"}
        assert httpx.get(f"{keyed.gateway.url}/models", headers=headers).status_code == status


def test_a_revoked_and_an_expired_key_open_nothing(keyed: KeyedGateway) -> None:
    revoked, entry = keyed.ring.create("ended", [Scope.GENERATE])
    keyed.ring.revoke(entry.id)
    expired, _ = keyed.ring.create("ended", [Scope.GENERATE], expires_in=-timedelta(seconds=1))
    for key in (revoked, expired):
        answer = httpx.get(f"{keyed.gateway.url}/models", headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 401
    assert {key.state for key in keyed.ring.all() if key.tenant == "ended"} == {"revoked", "expired"}
    with pytest.raises(NoSuchKey, match="revoked already"):
        keyed.ring.revoke(entry.id)


def test_a_rotated_key_stays_valid_for_the_overlap(keyed: KeyedGateway) -> None:
    old, entry = keyed.ring.create("rotating", [Scope.GENERATE, Scope.REVIEW], "server")
    new, replacing = keyed.ring.rotate(entry.id, timedelta(hours=1))
    assert (replacing.tenant, replacing.scopes, replacing.label) == (entry.tenant, entry.scopes, entry.label)
    for key in (old, new):
        headers = {"Authorization": f"Bearer {key}"}
        assert httpx.get(f"{keyed.gateway.url}/models", headers=headers).status_code == 200
    (ending,) = (key for key in keyed.ring.all() if key.id == entry.id)
    assert ending.is_valid(datetime.now(UTC) + timedelta(minutes=59))
    assert not ending.is_valid(datetime.now(UTC) + timedelta(minutes=61))


def test_a_service_beyond_loopback_starts_with_a_key_and_wants_it(keyed: KeyedGateway, tmp_path: Path) -> None:
    url = str(keyed.redis.connection_pool.connection_kwargs["path"])
    key, _ = keyed.ring.create("outside", [Scope.GENERATE])
    pepper = str(keyed.gateway.pictures.parent / "pepper")
    with running_gateway(f"unix://{url}", tmp_path, host="0.0.0.0", pepper_file=pepper) as gateway:  # noqa: S104
        assert httpx.get(f"{gateway.url}/models").status_code == 401
        headers = {"Authorization": f"Bearer {key}", "Host": "pictures.example.org"}
        assert httpx.get(f"{gateway.url}/models", headers=headers).status_code == 200


def test_a_first_key_closes_a_service_on_loopback(redis_server: RedisServer, redis: "Redis", tmp_path: Path) -> None:
    with running_gateway(redis_server.url, tmp_path) as gateway:
        assert httpx.get(f"{gateway.url}/models", headers={"Authorization": "Bearer whatever"}).status_code == 200
        key, entry = KeyRing(redis, None, tmp_path / "pepper").create("local", [Scope.GENERATE])
        headers = {"Authorization": f"Bearer {key}", "Host": "pictures.example.org"}
        assert httpx.get(f"{gateway.url}/models", headers=headers).status_code in (200, 421)
        ends = datetime.now(UTC) + timedelta(seconds=10)
        while httpx.get(f"{gateway.url}/models").status_code != 401:
            assert datetime.now(UTC) < ends
        assert httpx.get(f"{gateway.url}/models", headers=headers).status_code == 200
        KeyRing(redis, None, tmp_path / "pepper").revoke(entry.id)
        assert httpx.get(f"{gateway.url}/models").status_code == 401
    redis.delete(keys.API_KEYS)


def test_the_pepper_is_made_once_for_its_owner_only(redis: "Redis", tmp_path: Path) -> None:
    file = tmp_path / "deployment" / "pepper"
    ring = KeyRing(redis, None, file)
    try:
        first, entry = ring.create("acme", [Scope.GENERATE])
        made = file.read_bytes()
        assert os.stat(file).st_mode & 0o777 == 0o600
        ring.create("acme", [Scope.GENERATE])
        assert file.read_bytes() == made
        assert Pepper.read(None, file).fits(entry, first)
        assert not Pepper.read("another pepper, which is long enough", file).fits(entry, first)
        file.unlink()
        with pytest.raises(NoPepper, match="put it back"):
            ring.create("acme", [Scope.GENERATE])
        with pytest.raises(NoPepper, match="shorter than 32"):
            Pepper.read("salt", file)
    finally:
        redis.delete(keys.API_KEYS)
