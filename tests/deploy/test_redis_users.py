"""Redis' users, as deploy/redis/start.sh makes them: what each kind of process does in earnest, and no more."""

import inspect
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest
import torch
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from typer.testing import CliRunner

from contract import keys
from contract.acceptance import Terms
from seemly.doctor.command import examine
from seemly.doctor.finding import State
from seemly.keys import app as keys_command
from seemly.redis_process import is_answering
from seemly.webhooks import app as webhooks_command
from service.api_keys import Scope
from service.queue import JobQueue
from tests import engines
from tests.deploy.compose import ROOT, variables_in
from tests.lab.lab_process import lab_at_work
from tests.redis_server import READY_WITHIN_S
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.conftest import running_gateway
from tests.service.receiver import receiving
from tests.service.test_moderate import PICTURE
from tests.service.test_webhook_delivery import PEPPER, delivering
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from workers.lifecycle import RqWorker
from workers.metrics import WorkerMetrics
from workers.reaper import Reaper
from workers.records import JobRecords, connect
from workers.rq_disarmed import disarm_rq
from workers.variants.shelf import VariantShelf

ROLES = ("gateway", "worker", "lab", "webhooks", "commands")
OLDEST_MAJOR = 7  # rights to read only


def redis_7() -> Path | None:
    """The first redis-server of PATH that is new enough."""
    for folder in os.get_exec_path():
        binary = Path(folder) / "redis-server"
        if binary.is_file():
            told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
            version = re.search(r"v=(\d+)\.", told)
            if version and int(version[1]) >= OLDEST_MAJOR:
                return binary
    return None


needs_redis_7 = pytest.mark.skipif(
    redis_7() is None, reason="no redis-server 7 or newer is on PATH (Debian: apt-get install redis-server)"
)
pytestmark = needs_redis_7


@dataclass(frozen=True)
class Users:
    """A Redis that runs; every user's password is its own name."""

    socket: Path

    def url(self, user: str) -> str:
        return f"unix://{user}:{user}@{self.socket}"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Users]:
    """By the script of the image, as it runs there but for its paths."""
    folder = tmp_path_factory.mktemp("users")
    binary = redis_7()
    assert binary is not None
    environment = {
        "PATH": f"{binary.parent}:{os.environ['PATH']}",
        **{f"REDIS_{user.upper()}_PASSWORD": user for user in (*ROLES, "admin")},
        "REDIS_CONF": str(ROOT / "deploy" / "redis" / "redis.conf"),
        "REDIS_DATA": str(folder),
        "ACL_FILE": str(folder / "users.acl"),
    }
    at = Users(folder / "redis.sock")
    command = ["sh", str(ROOT / "deploy" / "redis" / "start.sh"), "--port", "0", "--unixsocket", str(at.socket)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        assert eventually(lambda: is_answering(at.url("gateway")), READY_WITHIN_S)
        yield at
    finally:
        process.terminate()
        process.wait(10)


READ = ("/jobs", "/drift", "/reviews", "/webhooks/deliveries", "/policies", "/metrics", "/healthz/ready", "/variants")


@dataclass(frozen=True)
class As:
    """Stands where a server is expected."""

    url: str


def test_every_process_does_its_work_as_its_own_user_and_is_denied_nothing(
    users: Users, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key made, jobs of every kind through the real processes, a webhook; Redis' own log tells what it denied."""
    with parts.client(users.url("admin")) as admin:
        admin.acl_log_reset()
    for name in [name for name in os.environ if name.startswith("SEEMLY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SEEMLY_PEPPER", PEPPER)
    monkeypatch.setenv("REDIS_URL", users.url("commands"))
    runner = CliRunner()
    scopes = [word for scope in Scope for word in ("--scope", scope)]
    made = runner.invoke(keys_command, ["create", "acme", *scopes, "--json"])
    assert made.exit_code == 0, made.output
    assert runner.invoke(webhooks_command, ["secret", "create", "acme"]).exit_code == 0

    model = engines.load(tiny_folder, torch.float32)
    shelf = VariantShelf(tmp_path / "variants", model.parts, model.info.weights_sha256, 1 << 30)
    settings = {"pepper": PEPPER, "webhook_networks": "127.0.0.0/8", "redis_timeout_s": "20"}
    erasure = {"name": "uce-x", "recipe": {"method": "uce", "concepts": ["knife"]}, "prompts": 1}
    small = {"prompt": "a cat", "steps": 2, "width": 32, "height": 32}
    with (
        receiving() as receiver,
        delivering(users.url("webhooks")),
        working(As(users.url("worker")), tmp_path, engines.engine(model), model, shelf, sweep_s=0.2),
        lab_at_work(users.url("lab"), tmp_path, tiny_folder),
        running_gateway(users.url("gateway"), tmp_path / "gateway", **settings) as gateway,
        httpx.Client(base_url=gateway.url, timeout=60) as http,
    ):
        http.headers["Authorization"] = f"Bearer {json.loads(made.stdout)['key']}"
        assert eventually(lambda: http.get("/models").json()["models"])
        asked = {**small, "safety": "filter:review", "webhook_url": receiver.url, "end_user": "someone"}
        job = http.post("/generate", json=asked, headers={"Prefer": "wait=60", "Idempotency-Key": "once"}).json()
        assert job["status"] in ("succeeded", "partial", "blocked"), job
        compared = http.post("/compare", json={**small, "plans": ["none", "filter"]})
        assert compared.status_code == 202, compared.text
        judged = http.post("/moderate", json={"images": [PICTURE]})
        assert judged.status_code == 200, judged.text
        canceled = http.post("/generate", json={**small, "steps": 50}).json()["id"]
        assert http.delete(f"/jobs/{canceled}").is_success
        for path in (*READ, f"/jobs/{job['id']}", f"/jobs/{job['id']}/events"):
            assert http.get(path).status_code == 200, path
        address = http.post("/erasures", json=erasure).headers["Location"]
        assert eventually(lambda: http.get(address).json()["status"] == "succeeded", 60), http.get(address).text
        assert eventually(lambda: "uce-x" in http.get("/variants").text)
        assert http.post("/variants/uce-x/promote", json={"force": "asked for"}).status_code == 200
        assert eventually(lambda: receiver.received)
    assert runner.invoke(keys_command, ["limits", "acme", "--refusals", "10"]).exit_code == 0
    assert runner.invoke(webhooks_command, ["list", "--tenant", "acme"]).exit_code == 0
    with parts.client(users.url("admin")) as admin:
        denied = [f"{one['username']}: {one['reason']} {one['object']}" for one in admin.acl_log()]
        assert sorted(set(denied)) == []
        assert admin.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_lab_ends_a_job_for_pictures_that_has_waited_past_its_deadline(users: Users) -> None:
    disarm_rq()
    late = job(deadline_s=-1)
    queue = JobQueue(users.url("gateway"), 5, allow_unsafe_redis=True)
    assert queue.accept(late, Terms(queue_limit=10)).is_new
    queue.close()
    with connect(users.url("lab")) as lab, connect(users.url("admin")) as admin:
        rq = RqWorker("lab-paced", lab, 2, on_stop_job=lambda _: None)
        Reaper(lab, rq.queue, JobRecords(lab, 60), WorkerMetrics(), grace_s=1).run()
        assert [kind for kind, _ in Client(admin).events(late.id)] == ["queued", "finished"]
        assert admin.zcard(keys.turns_key(late.queue)) == 0


EVERYBODY = (
    "FLUSHALL",
    "CONFIG SET maxmemory 1",
    "KEYS *",
    "SCAN 0",
    "ACL LIST",
    "SHUTDOWN",
    "SCRIPT FLUSH",
    "SET elsewhere 1",
)
BEYOND = {
    "gateway": (
        "HSET seemly:api-keys a b",
        "HSET seemly:tenants a b",
        "HSET seemly:models a b",
        "HSET seemly:webhooks:secrets a b",
        "ZADD seemly:workers:ready 1 a",
        "SUBSCRIBE rq:pubsub:seemly-a",
    ),
    "worker": (
        "HGET seemly:api-keys a",
        "HGET seemly:webhooks:secrets a",
        "HSET seemly:policies a b",
        "HSET seemly:labs a b",
        "LPOP rq:queue:lab-a",
        "GET seemly:tenant:a:idempotency:b",
        "SUBSCRIBE rq:pubsub:lab-a",
    ),
    "lab": (
        "HGET seemly:api-keys a",
        "HSET seemly:models a b",
        "LPOP rq:queue:seemly-a",
        "GET seemly:upload:a:0",
        "XRANGE seemly:tenant:a:audit - +",
        "HGETALL seemly:review:a",
    ),
    "webhooks": (
        "HGET seemly:api-keys a",
        "HGETALL seemly:job:a",
        "LPOP rq:queue:seemly-a",
        "HSET seemly:webhooks:secrets a b",
        "XRANGE seemly:tenant:a:audit - +",
    ),
    "commands": (
        "LPUSH rq:queue:seemly-a b",
        "HSET rq:job:a b c",
        "HSET seemly:job:a b c",
        "ZADD seemly:workers:ready 1 a",
        "PUBLISH rq:pubsub:seemly-a b",
    ),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_user_may_not_do_what_is_others_business(users: Users, role: str) -> None:
    with parts.client(users.url(role)) as client:
        for forbidden in (*EVERYBODY, *BEYOND[role]):
            with pytest.raises(NoPermissionError):
                client.execute_command(*forbidden.split())
        with pytest.raises(ResponseError, match=r"ACL failure in script|can.t access"):
            client.eval("return redis.call('SET', 'elsewhere', '1')", 0)


def test_whoever_has_no_name_may_nothing_and_the_probe_may_ping(users: Users) -> None:
    with parts.client(f"unix://{users.socket}") as nobody, pytest.raises((NoPermissionError, AuthenticationError)):
        nobody.ping()
    with parts.client(f"unix://gateway:worker@{users.socket}") as other, pytest.raises(AuthenticationError):
        other.ping()
    with parts.client(f"unix://probe:any@{users.socket}") as probe:
        assert probe.ping()
        with pytest.raises(NoPermissionError):
            probe.get("seemly:models")
    assert not [user for user in ROLES if f">{user}" in (users.socket.parent / "users.acl").read_text()]


UNSEEN = {"worker": {"keys", "webhooks"}, "lab": {"workers", "keys", "webhooks"}, "webhooks": {"workers", "keys"}}


@pytest.mark.parametrize("role", ROLES)
def test_the_doctor_leaves_out_what_it_may_not_see(
    users: Users, role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {"REDIS_URL": users.url(role), "SEEMLY_DATA": str(tmp_path), "SEEMLY_PEPPER": PEPPER}.items():
        monkeypatch.setenv(name, value)
    states = {one.check: one.state for one in examine()}
    assert states["redis"] is State.OK
    unseen = {check for check in ("workers", "keys", "webhooks") if states[check] is State.SKIPPED}
    assert unseen == UNSEEN.get(role, set())


def test_an_unset_password_ends_the_start() -> None:
    script = ROOT / "deploy" / "redis" / "start.sh"
    wanted = sorted(set(re.findall(r"\$\{(REDIS_[A-Z]+_PASSWORD):\?", script.read_text())))
    assert wanted == sorted(f"REDIS_{role.upper()}_PASSWORD" for role in ROLES)
    assert set(wanted) < set(variables_in((ROOT / ".env.example").read_text()))
    for missing in wanted:
        told = {name: "secret" for name in wanted if name != missing}
        done = subprocess.run(["sh", script], env={"PATH": os.environ["PATH"], **told}, capture_output=True, text=True)
        assert done.returncode != 0
        assert missing in done.stderr


def patterns() -> set[str]:
    """Of the keys that some role other than `commands` works with."""
    text = (ROOT / "deploy" / "redis" / "start.sh").read_text().replace("$1", "")
    return set(re.findall(r"~(seemly:[a-z:*-]+)", text)) - {f"{keys.PREFIX}*"}


def test_every_key_is_somebodys_business() -> None:
    """A new one that no role may touch would be found out in earnest only."""
    every = [value for value in vars(keys).values() if isinstance(value, str) and value.startswith(keys.PREFIX)]
    for name, key_of in vars(keys).items():
        if name.endswith("_key"):
            named = inspect.signature(key_of).parameters
            every.append(key_of(*("a" for _ in named)))
    assert len(every) > 30
    assert [key for key in every if key != keys.PREFIX and not any(fnmatch(key, one) for one in patterns())] == []


def test_keys_are_those_that_the_script_names() -> None:
    """A pattern for which there is no key any more would go unnoticed."""
    source = (ROOT / "contract" / "keys.py").read_text() + "".join(
        path.read_text() for folder in ("service", "workers") for path in (ROOT / folder).rglob("*.py")
    )
    names = {re.sub(r":?\*.*", "", pattern.removeprefix(keys.PREFIX)) for pattern in patterns()}
    assert {
        name for name in names if f"{{PREFIX}}{name}" not in source and f"{{keys.PREFIX}}{name}" not in source
    } == set()
