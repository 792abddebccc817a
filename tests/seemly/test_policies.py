"""`seemly policies`: from a file to what holds for a tenant."""

import json
from pathlib import Path

from typer.testing import CliRunner

from contract.audit import words_of
from contract.chain import APPEND
from seemly.commands.terminal import DONE, FAILED
from seemly.policies import app
from tests.redis_server import RedisServer
from tests.seemly.test_audit import some_verdicts
from tests.seemly.test_keys import environment, own_redis
from tests.service import parts

__all__ = ["environment", "own_redis"]

NEXT = """
id: storefront
version: 1
floor:
  output: {method: filter, action: review}
"""


def run(*words: str, exit_code: int = DONE) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_code, done.output
    return done.output


def test_a_policy_goes_from_a_file_over_the_shadow_to_a_tenant(own_redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "storefront.yaml"
    file.write_text(NEXT)
    assert run("check", str(file)) == "storefront@1 can be added.\n"
    assert run("add", str(file)) == "storefront@1 is added.\n"
    assert run("add", str(file)) == "storefront@1 was there already.\n"
    assert (
        run("assign", "acme", "storefront", "--mode", "shadow") == "acme is under default@1, storefront@1 is watched.\n"
    )
    with parts.client(own_redis.url) as redis:
        redis.register_script(APPEND)(args=["acme", *words_of(some_verdicts())])
    replay = json.loads(run("replay", "storefront@1", "acme", "--json"))
    assert (replay["before"], replay["after"]) == ({"blocked": 1}, {"review": 1})
    told = run("replay", str(file), "acme")
    assert "review" in told
    assert "prompt rules" not in told
    worded = tmp_path / "worded.yaml"
    worded.write_text("{id: worded, version: 1, prompt_rules: {concepts: [{name: gun, text: a gun, threshold: 0.4}]}}")
    assert "Of 1 of these jobs not all prompt rules could be asked" in " ".join(
        run("replay", str(worded), "acme").split()
    )
    assert run("assign", "acme", "storefront@1") == "acme is under storefront@1.\n"
    listed = json.loads(run("list", "--json"))
    assert listed["assignments"]["acme"] == {"enforce": {"id": "storefront", "version": 1}, "shadow": None}
    assert "storefront@1" in run("list")
    assert "action: review" in run("show", "storefront")


def test_what_cannot_be_done_is_told(own_redis: RedisServer, tmp_path: Path) -> None:
    file = tmp_path / "storefront.yaml"
    file.write_text(NEXT)
    run("add", str(file))
    file.write_text(NEXT.replace("review", "block"))
    assert "raise the version" in run("add", str(file), exit_code=FAILED)
    file.write_text(NEXT.replace("floor", "flor"))
    assert "flor is not a field" in run("check", str(file), exit_code=FAILED)
    assert "There is no such policy" in run("assign", "acme", "storefront@2", exit_code=FAILED)
    assert "write one as ID" in run("show", "Storefront!", exit_code=FAILED)
