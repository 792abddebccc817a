"""`seemly audit`: whatever is done to a chain is found, and what was deleted in due time leaves it whole."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from redis import Redis
from typer.testing import CliRunner

from contract import keys
from contract.acceptance import Terms
from contract.audit import Verdicts, words_of
from contract.chain import APPEND
from contract.result import Status
from contract.verdict import Verdict
from seemly.audit import app
from seemly.commands.terminal import DONE, FAILED
from service.api_keys import Pepper
from service.audit.exports import check_export
from service.audit.heads import PURPOSE
from service.queue import JobQueue
from tests.redis_server import RedisServer
from tests.seemly.test_keys import environment, own_redis
from tests.service import parts
from workers.evidence import verdicts_of

__all__ = ["environment", "own_redis"]


def run(*words: str, exit_code: int = DONE) -> str:
    done = CliRunner().invoke(app, words)
    assert done.exit_code == exit_code, done.output
    return done.output


def some_verdicts(tenant: str = "acme", job_id: str = "0" * 32) -> Verdicts:
    job = parts.some_job(tenant=tenant, id=job_id)
    blocked = parts.picture(job, 0, Verdict.BLOCKED, concepts=(parts.score(0.3),), reasons=("weapon – a reason",))
    found = verdicts_of(job, 1, parts.result(job, Status.BLOCKED, blocked))
    assert found is not None
    return found


def append(redis: "Redis", count: int, tenant: str = "acme") -> None:
    script = redis.register_script(APPEND)
    for _ in range(count):
        script(args=[tenant, *words_of(some_verdicts(tenant))])


@pytest.fixture
def redis(own_redis: RedisServer) -> "Redis":
    return parts.client(own_redis.url)


@pytest.fixture
def lines(redis: "Redis", tmp_path: Path) -> list[str]:
    """An export of three entries and a head."""
    append(redis, 3)
    run("export", "--tenant", "acme", "--out", str(tmp_path / "export"))
    return (tmp_path / "export").read_text().splitlines(keepends=True)


def test_a_commit_puts_its_verdicts_on_record_once(redis: "Redis", own_redis: RedisServer) -> None:
    parts.announce(redis)
    job = parts.some_job(tenant="acme")
    queue = JobQueue(own_redis.url, 20)
    queue.accept(job, Terms(queue_limit=10))
    queue.close()
    attempt, job = parts.take(redis, job.id)
    result = parts.result(job, Status.SUCCEEDED, parts.picture(job, 0))
    parts.commit(redis, job.id, attempt, result)
    with pytest.raises(AssertionError):
        parts.commit(redis, job.id, attempt, result)  # the second is refused, and leaves nothing
    told = run("export", "--tenant", "acme").splitlines()
    entry = Verdicts.model_validate(json.loads(told[0])["body"])
    assert (entry.job, entry.status, entry.images) == (job.id, Status.SUCCEEDED, result.images)
    assert entry.plans == (job.plan,)
    assert result.safety is not None
    assert entry.safety == (result.safety,)
    assert job.prompt not in "".join(told)
    assert json.loads(told[1])["head"]["sequence"] == 1


def test_who_has_read_enough_ends_it_quietly(redis: "Redis", lines: list[str], tmp_path: Path) -> None:
    """As `| head` does; what it says otherwise would stand between the reader's own lines."""
    command = [sys.executable, "-c", "from seemly.audit import app; app()", "export", "--tenant", "acme"]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing) as pipe:
        ended = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (1, b"")


def test_what_is_whole_is_verified_alive_and_as_an_export(redis: "Redis", lines: list[str], tmp_path: Path) -> None:
    append(redis, 2)
    append(redis, 1, tenant="other")
    assert "acme: entries 1 to 5, unbroken" in run("verify")
    assert "other: entries 1 to 1, unbroken" in run("verify")
    assert "acme: entries 1 to 3, unbroken" in run("verify", str(tmp_path / "export"))
    (tmp_path / "head").write_text(run("head", "--tenant", "acme"))
    run("verify", "--head", str(tmp_path / "export"), "--head", str(tmp_path / "head"))


def tampered(lines: Iterable[str], key: bytes) -> bool:
    try:
        return check_export(lines, key).fault is not None
    except ValueError:
        return True


def test_every_single_byte_of_an_export_counts(redis: "Redis", lines: list[str], tmp_path: Path) -> None:
    key = Pepper.read(None, tmp_path / "data" / "pepper").derived(PURPOSE)
    assert not tampered(lines, key)
    whole = "".join(lines).encode()

    def changed(at: int) -> StringIO:
        spoilt = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
        return StringIO(spoilt.decode(errors="replace"), newline="\n")

    missed = [at for at in range(len(whole) - 1) if not tampered(changed(at), key)]  # all but the last line's end
    assert not missed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [lines[0], *lines[2:]], "entry 3 comes after entry 1"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "comes after entry 2"),
        (lambda lines: [lines[0], *lines], "entry 1 comes after entry 1"),
        (lambda lines: lines[1:], "begins with entry 2"),
        (lambda lines: lines[:3], "head is missing"),
        (lambda lines: [*lines[:2], lines[3]], "should end at entry 3"),
        (lambda lines: lines[3:], "ends at nothing"),
        (lambda lines: [lines[0].replace("blocked", "passed"), *lines[1:]], "entry 1 does not say what was put"),
        (lambda lines: [*lines[:3], lines[3].replace('"sequence":3', '"sequence":2')], "not signed here"),
    ],
)
def test_what_was_done_to_an_export_is_told(
    lines: list[str], tmp_path: Path, change: Callable[[list[str]], list[str]], told: str
) -> None:
    (tmp_path / "changed").write_text("".join(change(lines)))
    assert told in run("verify", str(tmp_path / "changed"), exit_code=FAILED)


def rewritten(redis: "Redis", entries: list[dict[str, str]]) -> None:
    """What someone does who can write to Redis, and knows how chains are made but has no pepper."""
    redis.delete(keys.audit_key("acme"))
    for fields in entries:
        redis.xadd(keys.audit_key("acme"), dict(fields))


def test_what_was_done_to_the_chain_in_redis_is_told(redis: "Redis", lines: list[str], tmp_path: Path) -> None:
    stream = keys.audit_key("acme")
    entries = [fields for _, fields in redis.xrange(stream)]
    rewritten(redis, [{**entries[0], "body": entries[0]["body"].replace("0.3", "0.1")}, *entries[1:]])
    assert "entry 1 does not say" in run("verify", exit_code=FAILED)
    rewritten(redis, [entries[0], {"body": entries[1]["body"]}, entries[2]])
    assert "entry 0 comes after entry 1" in run("verify", exit_code=FAILED)
    rewritten(redis, [entries[0], entries[2]])
    assert "entry 3 comes after entry 1" in run("verify", exit_code=FAILED)
    rewritten(redis, entries[:2])
    assert "should end at entry 3" in run("verify", exit_code=FAILED)
    redis.hset(keys.audit_head_key("acme"), mapping={"sequence": 2, "link": entries[1]["link"]})
    assert "unbroken" in run("verify")  # by itself a chain cannot tell that its end is gone
    assert "its end was cut off" in run("verify", "--head", str(tmp_path / "export"), exit_code=FAILED)
    redis.delete(stream, keys.audit_head_key("acme"))
    append(redis, 4)  # a whole chain, but another one: entries say when
    assert "is not the one that was the last" in run("verify", "--head", str(tmp_path / "export"), exit_code=FAILED)


def test_what_is_deleted_in_due_time_is_told_and_the_rest_stays_whole(
    redis: "Redis", lines: list[str], tmp_path: Path
) -> None:
    time.sleep(0.01)
    before, sha256 = json.loads(run("cut", "--tenant", "acme", "--older-than", "0", "--json"))["link"], lines[2]
    assert before == json.loads(sha256)["link"]
    told = run("verify", "--head", str(tmp_path / "export"))
    assert f"entries 4 to 4, unbroken; 1 to 3 were deleted on {datetime.now(UTC):%Y-%m-%d} under {before}" in told
    append(redis, 2)
    run("export", "--tenant", "acme", "--out", str(tmp_path / "later"))
    assert "1 to 3 were deleted" in run("verify", str(tmp_path / "later"))
    assert "Nothing is that old" in run("cut", "--tenant", "acme", "--older-than", "1h")
    first, *rest = [fields for _, fields in redis.xrange(keys.audit_key("acme"))]
    rewritten(redis, rest)  # with the entry that tells of the deletion
    assert "nothing says what was before it" in run("verify", exit_code=FAILED)
    rewritten(redis, [{**first, "body": first["body"].replace('"first":1', '"first":2')}, *rest])
    assert "does not say what was put on record" in run("verify", exit_code=FAILED)


def test_entries_that_are_put_on_record_at_once_hang_in_one_chain(redis: "Redis") -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: append(redis, 10), range(8)))
    assert "acme: entries 1 to 80, unbroken" in run("verify")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("verify", "nowhere"), FAILED, "nowhere"),
        (("verify", __file__), FAILED, "line 1 is neither an entry"),
        (("verify", __file__, "--tenant", "acme"), FAILED, "--tenant"),
        (("verify", "--head", __file__), FAILED, "no export of an audit"),
        (("cut", "--tenant", "acme", "--older-than", "soon"), 2, "no duration"),
        (("export", "--tenant", "acme", "--out", __file__), FAILED, "exists"),
        (("export",), 2, "--tenant"),
    ],
)
def test_what_cannot_be_is_told(own_redis: RedisServer, words: tuple[str, ...], code: int, told: str) -> None:
    assert told in run(*words, exit_code=code)
