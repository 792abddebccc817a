"""Retention: what is over its time is really gone, as the tenant's policy of now says, and the audit proves it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract import keys
from contract.audit import ENTRY, Deleted, Entry, Erased
from contract.filter import Action, Filter
from contract.job import PolicyRef
from contract.plan import SafetyPlan
from contract.policy import Policy, field_of
from contract.result import Status
from contract.retention import ERASE, Lifetimes, Retention
from seemly.audit import app
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import RunningWorker, working
from tests.workers.lifecycle.paced_engine import PacedEngine
from tests.workers.lifecycle.test_policies import put_under

DAY_S = 86_400
REVIEW = SafetyPlan(output=Filter(action=Action.REVIEW))


@pytest.fixture
def sweeping(server: RedisServer, tmp_path: Path, client: Client) -> Iterator[RunningWorker]:
    """A worker that sweeps all the time, of a deployment that keeps everything for a day."""
    with working(server, tmp_path, PacedEngine(), sweep_s=0.05, sweep_margin_s=0, withheld_keep_s=DAY_S) as running:
        yield running


def entries(client: Client, tenant: str) -> list[Entry]:
    return [ENTRY.validate_json(fields[b"body"]) for _, fields in client.redis.xrange(keys.audit_key(tenant))]


def erased(client: Client, tenant: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"results": set(), "pictures": set()}
    for entry in entries(client, tenant):
        if isinstance(entry, Erased):
            assert entry.count == len(entry.names)
            found[entry.what] |= {*entry.names}
    return found


def files_of(worker: RunningWorker, tenant: str) -> set[str]:
    return {path.name for path in worker.pictures.rglob("*") if path.is_file() and tenant in path.parts}


def traces_of(client: Client, job_id: str) -> int:
    return int(client.redis.exists(keys.job_key(job_id), keys.events_key(job_id), keys.review_key(f"{job_id}-0")))


def verified(server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tenant: str) -> str:
    monkeypatch.setenv("REDIS_URL", server.url)
    monkeypatch.setenv("SEEMLY_DATA", str(tmp_path))
    told = CliRunner().invoke(app, ["verify", "--tenant", tenant])
    assert told.exit_code == 0, told.output
    return " ".join(told.output.split())


def test_what_a_policy_lets_go_is_gone_everywhere_and_proved(
    client: Client, sweeping: RunningWorker, server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = Policy(id="short", version=3, retention=Retention(results_s=1, held_s=1))
    put_under(client, short, "brief")
    jobs = [job("a harbour", tenant="brief"), job("a weapon", tenant="brief", plan=REVIEW)]
    other = job("a weapon", tenant="lasting", plan=REVIEW)
    for wanted in (*jobs, other):
        client.accept(wanted)
    ended = client.wait_for([wanted.id for wanted in (*jobs, other)])
    assert [*ended.values()] == [Status.SUCCEEDED, Status.BLOCKED, Status.BLOCKED]
    assert 0 < client.redis.ttl(keys.job_key(jobs[0].id)) <= 1
    ids = {wanted.id for wanted in jobs}
    assert eventually(lambda: erased(client, "brief")["results"] == ids, 20)
    assert [traces_of(client, job_id) for job_id in ids] == [0, 0]
    assert client.redis.zcard(keys.tenant_reviews_key("brief")) == client.redis.zcard(keys.ended_jobs_key("brief")) == 0
    passed, held = (f"{wanted.id}/1-0" for wanted in jobs)
    names = {f"{passed}.png", f"{held}.png", f"{held}.thumbnail.png"}
    assert eventually(lambda: erased(client, "brief")["pictures"] == names, 20)
    assert files_of(sweeping, "brief") == set()
    assert {entry.policy for entry in entries(client, "brief") if isinstance(entry, Erased)} == {short.ref}
    assert traces_of(client, other.id) == 3  # another tenant's stays
    assert files_of(sweeping, "lasting") == {"1-0.png", "1-0.thumbnail.png"}
    assert erased(client, "lasting") == {"results": set(), "pictures": set()}
    assert "unbroken" in verified(server, monkeypatch, tmp_path, "brief")

    put_under(client, Policy(id="short", version=4, retention=Retention(audit_s=1)), "brief")
    assert eventually(lambda: isinstance(entries(client, "brief")[0], Deleted), 20)
    cut = entries(client, "brief")[0]
    assert isinstance(cut, Deleted)
    assert cut.policy == PolicyRef(id="short", version=4)
    assert "unbroken; " in verified(server, monkeypatch, tmp_path, "brief")


def test_a_policy_that_is_tightened_holds_for_what_is_kept_already(client: Client, sweeping: RunningWorker) -> None:
    wanted, canceled = job(tenant="tighter"), job("endless", tenant="tighter")
    client.accept(wanted)
    client.accept(canceled)
    client.wait_until_started(canceled.id)
    client.cancel(canceled.id)
    client.wait_for([wanted.id, canceled.id])
    assert client.redis.ttl(keys.job_key(wanted.id)) > DAY_S - 100
    put_under(client, Policy(id="tight", version=1, retention=Retention(results_s=1)), "tighter")
    assert eventually(lambda: erased(client, "tighter")["results"] == {wanted.id, canceled.id}, 20)
    assert [traces_of(client, one.id) for one in (wanted, canceled)] == [0, 0]  # the prompt with it
    assert eventually(lambda: files_of(sweeping, "tighter") == set(), 20)


def test_the_deployments_own_policy_holds_for_whom_none_was_assigned(client: Client, sweeping: RunningWorker) -> None:
    own = Policy(id="own", version=1, retention=Retention(results_s=1))
    client.redis.hset(keys.POLICIES, field_of(own.ref), own.model_dump_json())
    client.redis.set(keys.OWN_POLICY, own.ref.model_dump_json())
    wanted = client.accept(job(tenant="anyone"))
    client.wait_for([wanted])
    assert eventually(lambda: erased(client, "anyone")["results"] == {wanted}, 20)
    client.redis.set(keys.OWN_POLICY, "no JSON")  # nothing is deleted on the word of what cannot be read
    wanted = client.accept(job(tenant="anyone"))
    client.wait_for([wanted])
    assert not eventually(lambda: traces_of(client, wanted) < 2, 1.5)


def test_many_records_go_in_parts_and_those_that_stay_hold_up_none(client: Client) -> None:
    erase = client.redis.register_script(ERASE)
    held = '{"images":[{"kept":true}]}'
    for number in range(150):
        client.redis.hset(keys.job_key(f"{number:032x}"), "result", held if number % 2 else "{}")
        client.redis.zadd(keys.ended_jobs_key("many"), {f"{number:032x}": number})
    client.redis.set(keys.job_key(f"{0:032x}"), "damaged")
    at = "2026-01-01T00:00:00+00:00"
    arguments = ["many", 1000, 100, 10_000, at, ""]
    assert erase(args=[*arguments, 0, 100]) == [49, 100]  # what is damaged is looked at by a person
    assert erase(args=[*arguments, 51, 100]) == [25, 50]
    assert client.redis.zcard(keys.ended_jobs_key("many")) == 76
    assert [entry.count for entry in entries(client, "many") if isinstance(entry, Erased)] == [49, 25]


def test_no_policy_keeps_anything_longer_than_the_deployment() -> None:
    most = Lifetimes(100, 700, 3000)
    assert Retention().within(most) == most
    assert Retention(results_s=101, held_s=701, audit_s=3001).within(most) == most
    assert Retention(results_s=10, held_s=5, audit_s=20).within(most) == Lifetimes(10, 10, 20)


@pytest.mark.parametrize("wrong", [{"results_s": 0}, {"held_s": "7d"}, {"audit_s": True}, {"pictures_s": 60}])
def test_what_is_no_retention_is_refused_with_its_field(wrong: dict[str, object]) -> None:
    [field] = wrong
    with pytest.raises(ValueError, match=rf"retention\.{field}"):
        Policy.model_validate({"id": "wrong", "version": 1, "retention": wrong})
