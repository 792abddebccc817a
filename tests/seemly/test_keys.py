"""`seemly keys` as it is typed, on a data folder where nothing runs and on a given Redis."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from seemly.cli import app
from seemly.client import Client
from seemly.commands.terminal import DONE, FAILED
from seemly.errors import Refused
from seemly.keys import app as keys_app
from tests.redis_server import RedisServer, running_redis
from tests.service import parts
from tests.service.conftest import running_gateway


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("SEEMLY_") or name == "REDIS_URL"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEEMLY_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def own_redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        yield server


def run(*words: str, exit_code: int = DONE) -> str:
    done = CliRunner().invoke(keys_app, words)
    assert done.exit_code == exit_code, done.output
    return done.output


def test_a_key_made_while_nothing_runs_is_there_afterwards(tmp_path: Path) -> None:
    shown = run("create", "acme", "--label", "laptop")
    assert "seemly_" in shown
    assert os.stat(tmp_path / "data" / "pepper").st_mode & 0o777 == 0o600
    [kept] = json.loads(run("list", "--json"))
    assert (kept["tenant"], kept["scopes"], kept["label"], kept["state"]) == ("acme", ["generate"], "laptop", "valid")
    assert shown.split("_")[-1].strip() not in json.dumps(kept)


def test_keys_are_listed_rotated_and_revoked(own_redis: RedisServer) -> None:
    made = json.loads(run("create", "acme", "--scope", "review", "--scope", "admin", "--expires-in", "90d", "--json"))
    assert made["key"].startswith(f"seemly_{made['id']}_")
    assert made["scopes"] == ["review", "admin"]
    rotated = json.loads(run("rotate", made["id"], "--overlap", "2h", "--json"))
    assert rotated["replaces"] == made["id"]
    assert rotated["expires_at"] == made["expires_at"]
    assert json.loads(run("revoke", made["id"], "--json"))["state"] == "revoked"
    listed = run("list")
    assert made["id"] in listed
    assert rotated["id"] in listed
    assert "revoked" in listed


def test_a_tenants_limits_are_set_shown_and_given_up(own_redis: RedisServer) -> None:
    assert "has the service's defaults" in run("limits", "acme")
    run("limits", "acme", "--jobs", "10", "--cost", "none")
    shown = json.loads(run("limits", "acme", "--requests", "30/second", "--json"))
    assert shown == {"tenant": "acme", "limits": {"requests": "30/second", "jobs": 10, "cost": None}}
    assert "cost: none" in run("limits", "acme")
    assert "defaults" in run("limits", "acme", "--reset")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("limits", "acme", "--requests", "often"), FAILED, "600/minute"),
        (("limits", "acme", "--jobs", "0"), FAILED, "jobs"),
        (("revoke", "0" * 12), FAILED, "there is no key"),
        (("create", "Not A Tenant"), FAILED, "tenant"),
        (("create", "acme", "--scope", "everything"), 2, "everything"),
        (("create", "acme", "--expires-in", "soon"), 2, "30m, 12h or 90d"),
    ],
)
def test_what_cannot_be_is_told(own_redis: RedisServer, words: tuple[str, ...], code: int, told: str) -> None:
    assert told in run(*words, exit_code=code)


def test_a_redis_that_is_away_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REDIS_URL", f"unix://{tmp_path}/nothing")
    assert "REDIS_URL" in run("list", exit_code=FAILED)


def test_the_client_and_the_command_line_show_their_key(own_redis: RedisServer, tmp_path: Path) -> None:
    made = json.loads(run("create", "acme", "--json"))
    pepper = str(tmp_path / "data" / "pepper")
    with running_gateway(own_redis.url, tmp_path / "gateway", pepper_file=pepper) as gateway:
        with parts.client(own_redis.url) as redis:
            parts.announce(redis)
        with Client(gateway.url, api_key=made["key"]) as client:
            assert client.generate("a harbour").status == "queued"
        with Client(gateway.url) as client, pytest.raises(Refused) as refused:
            client.models()
        assert (refused.value.status, refused.value.code) == (401, "unauthenticated")
        words = ["generate", "a harbour", "--url", gateway.url, "--out", str(tmp_path), "--json"]
        without = CliRunner().invoke(app, words)
        assert without.exit_code == FAILED
        assert json.loads(without.stderr.splitlines()[-1])["error"]["code"] == "unauthenticated"
        wrong = CliRunner().invoke(app, [*words, "--api-key", "seemly_wrong"])
        assert "not valid" in json.loads(wrong.stderr.splitlines()[-1])["error"]["detail"]
        assert httpx.get(f"{gateway.url}/healthz/live").status_code == 200
