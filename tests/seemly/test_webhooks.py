"""`seemly webhooks` as it is typed, on a data folder where nothing runs and on a given Redis."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from standardwebhooks.webhooks import Webhook
from typer.testing import CliRunner

from contract import keys
from contract.acceptance import Terms
from contract.result import Result, Status
from seemly.commands.terminal import DONE, FAILED
from seemly.webhooks import app
from service.queue import JobQueue
from tests.redis_server import RedisServer
from tests.seemly.test_keys import environment, own_redis
from tests.service import parts

__all__ = ["environment", "own_redis"]


def run(*words: str, exit_code: int = DONE) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_code, done.output
    return done.output


def test_a_secret_made_while_nothing_runs_is_shown_again(tmp_path: Path) -> None:
    made = run("secret", "create", "acme").splitlines()[-1]
    Webhook(made).sign("msg_1", datetime.now(UTC), "{}")
    assert (tmp_path / "data" / "pepper").exists()
    assert json.loads(run("secret", "show", "acme", "--json"))[0]["secret"] == made


def test_secrets_are_rotated_and_listed(own_redis: RedisServer) -> None:
    [first] = json.loads(run("secret", "create", "acme", "--json"))
    [second] = json.loads(run("secret", "rotate", "acme", "--overlap", "2h", "--json"))
    shown = json.loads(run("secret", "show", "acme", "--json"))
    assert [one["secret"] for one in shown] == [first["secret"], second["secret"]]
    assert shown[0]["ends_at"] is not None
    run("secret", "rotate", "acme", "--overlap", "0")
    listed = run("secret", "list")
    assert (listed.count("ended"), listed.count("signs")) == (2, 1)
    assert first["secret"] not in listed + run("secret", "list", "--json")


def test_deliveries_are_listed_and_sent_again(own_redis: RedisServer) -> None:
    job = parts.some_job(tenant="acme")
    queue = JobQueue(own_redis.url, 20)
    queue.accept(job, Terms(queue_limit=10, webhook_url="https://app.example/"))
    queue.cancel(job, Result(status=Status.CANCELED), 60)
    queue.close()
    message_id = f"msg_{job.id}"
    [listed] = json.loads(run("list", "--tenant", "acme", "--json"))
    assert (listed["id"], listed["type"], listed["state"]) == (message_id, "job.canceled", "pending")
    assert json.loads(run("list", "--tenant", "acme", "--state", "dead", "--json")) == []
    with parts.client(own_redis.url) as redis:
        redis.hset(keys.delivery_key(message_id), "state", "dead")
        assert message_id in run("list", "--tenant", "acme", "--state", "dead")
        [sent] = json.loads(run("replay", "--tenant", "acme", "--dead", "--json"))
        assert (sent["id"], sent["state"]) == (message_id, "pending")
    assert "1 will be sent again" in run("replay", message_id, "--tenant", "acme")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("secret", "show", "acme"), FAILED, "seemly webhooks secret create acme"),
        (("secret", "rotate", "acme"), FAILED, "seemly webhooks secret create acme"),
        (("secret", "create", "Not A Tenant"), FAILED, "tenant"),
        (("replay", "--tenant", "acme"), FAILED, "--dead"),
        (("replay", "msg_x", "--tenant", "acme"), FAILED, "no such webhook"),
        (("list", "--tenant", "acme", "--state", "lost"), 2, "lost"),
        (("list",), 2, "--tenant"),
    ],
)
def test_what_cannot_be_is_told(own_redis: RedisServer, words: tuple[str, ...], code: int, told: str) -> None:
    assert told in run(*words, exit_code=code)
