"""Redis away, frozen, cut off in the middle, full: 503 in time, nothing half accepted."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from rq import Queue, Retry
from rq.job import Job as QueuedJob
from rq.serializers import JSONSerializer

from contract import keys
from contract.acceptance import Terms
from contract.redis_safety import FRESH_S
from contract.result import JobView, Status
from service.queue import JobQueue
from tests.redis_server import RedisServer, running_redis
from tests.service import parts
from tests.service.conftest import GatewayProcess, running_gateway
from tests.service.test_bad_input import problem

REQUEST = {"prompt": "a midnight harbour"}


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with running_redis(tmp_path) as server:
        with parts.client(server.url) as client:
            parts.announce(client)
            parts.announce_worker(client)
        yield server


@pytest.fixture
def own_gateway(own_redis: RedisServer, tmp_path: Path) -> Iterator[GatewayProcess]:
    with running_gateway(own_redis.url, tmp_path / "gateway") as running:
        yield running


def timed(url: str, method: str = "POST") -> tuple[httpx.Response, float]:
    began = time.monotonic()
    answer = httpx.request(method, url, json=REQUEST if method == "POST" else None, timeout=30)
    return answer, time.monotonic() - began


def test_a_frozen_redis_is_answered_with_503_within_two_seconds(
    own_redis: RedisServer, own_gateway: GatewayProcess
) -> None:
    job_id = httpx.post(f"{own_gateway.url}/generate", json=REQUEST).json()["id"]
    asked = [
        ("POST", "/generate"), ("GET", f"/jobs/{job_id}"), ("GET", f"/jobs/{job_id}/events"),
        ("DELETE", f"/jobs/{job_id}"), ("GET", "/healthz/ready"),
    ]  # fmt: skip
    own_redis.freeze()
    try:
        for method, path in asked:
            answer, took_s = timed(f"{own_gateway.url}{path}", method)
            assert (answer.status_code, problem(answer)["code"]) == (503, "redis_unavailable"), path
            assert int(answer.headers["Retry-After"]) > 0
            assert took_s < 2, path
        assert httpx.get(f"{own_gateway.url}/healthz/live").status_code == 200
    finally:
        own_redis.thaw()
    time.sleep(0.6)  # as long as a silence is respected after it was last noticed
    assert timed(f"{own_gateway.url}/jobs/{job_id}", "GET")[0].status_code == 200
    assert timed(f"{own_gateway.url}/generate")[0].status_code == 202


def test_two_hundred_callers_of_a_frozen_redis_do_not_wait_for_each_other(
    own_redis: RedisServer, own_gateway: GatewayProcess
) -> None:
    httpx.post(f"{own_gateway.url}/generate", json=REQUEST)
    own_redis.freeze()
    try:
        limits = httpx.Limits(max_connections=None)
        with ThreadPoolExecutor(200) as pool, httpx.Client(timeout=60, limits=limits) as client:
            began = time.monotonic()
            asked = [pool.submit(client.post, f"{own_gateway.url}/generate", json=REQUEST) for _ in range(200)]
            answers = [answer.result().status_code for answer in asked]
            took_s = time.monotonic() - began
    finally:
        own_redis.thaw()
    print(f"200 callers of a frozen Redis: {took_s:.2f} s")  # noqa: T201
    assert set(answers) == {503}
    assert took_s < 5  # one after the other they would take 200 s; client and server share this machine's cores


def test_a_redis_that_dies_after_acceptance_does_not_take_the_jobs_address_along(
    own_redis: RedisServer, own_gateway: GatewayProcess
) -> None:
    def ask() -> httpx.Response:
        return httpx.post(f"{own_gateway.url}/generate", json=REQUEST, headers={"Prefer": "wait=3"}, timeout=30)

    with ThreadPoolExecutor(1) as pool, parts.client(own_redis.url) as client:
        asked = pool.submit(ask)
        while not (ids := client.zrange(keys.ACCEPTED, 0, -1)):
            time.sleep(0.01)
        time.sleep(0.3)
        own_redis.kill()
        answer = asked.result()
    assert answer.status_code == 202
    assert JobView.model_validate_json(answer.content).status is Status.QUEUED
    assert answer.headers["Location"] == f"/jobs/{ids[0]}"
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_redis_that_dies_and_comes_back_loses_nothing_acknowledged(
    own_redis: RedisServer, own_gateway: GatewayProcess
) -> None:
    acknowledged = [httpx.post(f"{own_gateway.url}/generate", json=REQUEST).json()["id"] for _ in range(5)]
    time.sleep(1.1)  # the append-only file is synced every second
    own_redis.kill()
    answer, took_s = timed(f"{own_gateway.url}/generate")
    assert (answer.status_code, problem(answer)["code"]) == (503, "redis_unavailable")
    assert took_s < 2
    metrics = httpx.get(f"{own_gateway.url}/metrics").text
    assert "seemly_redis_up 0.0" in metrics
    own_redis.start()
    for job_id in acknowledged:
        assert httpx.get(f"{own_gateway.url}/jobs/{job_id}").json()["status"] == "queued"
    assert httpx.post(f"{own_gateway.url}/generate", json=REQUEST).status_code == 202
    with parts.client(own_redis.url) as client:
        assert client.lrange("rq:queue:seemly-demo", 0, -1)[:5] == acknowledged


@contextmanager
def cutting_proxy(target: Path, folder: Path, cut_before: bytes, *, after: bool = False) -> Iterator[str]:
    """Stands before Redis and hangs up when a marker comes by, passing on everything before it and nothing after.

    `after`: passes the marked command on as well, and hangs up before the reply.
    """
    address = folder / "proxy"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(address))
    listening.listen()

    def serve() -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            threading.Thread(target=relay, args=(near,), daemon=True).start()

    def relay(near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(str(target))
            while content := near.recv(1 << 20):
                passed, marker, _ = content.partition(cut_before)
                far.sendall(content if after else passed)
                if marker:
                    if after:
                        far.recv(1 << 20)
                    return
                near.sendall(far.recv(1 << 20))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"unix://{address}"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


def test_a_connection_cut_before_acceptance_accepts_nothing(own_redis: RedisServer, tmp_path: Path) -> None:
    target = Path(own_redis.url.removeprefix("unix://"))
    job = parts.some_job()
    with parts.client(own_redis.url) as client:
        before = parts.redis_keys(client)
        with cutting_proxy(target, target.parent, b"EVALSHA") as url:
            queue = JobQueue(url, 1)
            queue.load(job.model)
            with pytest.raises(RedisConnectionError):
                queue.accept(job, Terms(queue_limit=10))
            queue.close()
        time.sleep(0.1)
        assert parts.redis_keys(client) == before


def test_acceptance_is_one_script(own_redis: RedisServer) -> None:
    job = parts.some_job()
    queue = JobQueue(own_redis.url, 1)
    queue.accept(parts.some_job(id="1" * 32), Terms(queue_limit=10))  # Redis knows the script from now on
    with parts.client(own_redis.url) as client, client.monitor() as monitor:
        queue.accept(job, Terms(queue_limit=10))
        queue.close()
        client.ping()
        commands = []
        while not commands or commands[-1]["command"] != "PING":
            commands.append(monitor.next_command())
    sent = [one["command"].split(" ")[0] for one in commands if one["client_type"] != "lua"]
    assert sent == ["EVALSHA", "PING"]


def test_what_stands_in_rqs_hash_is_what_rq_writes_itself(own_redis: RedisServer) -> None:
    job = parts.some_job()
    queue = JobQueue(own_redis.url, 1)
    queue.accept(job, Terms(queue_limit=10))
    queue.close()
    with Redis.from_url(own_redis.url) as raw:
        its_own = Queue("its-own", connection=raw, serializer=JSONSerializer).enqueue_call(
            keys.GENERATE,
            description=keys.GENERATE,
            timeout=3600,
            result_ttl=600,
            failure_ttl=600,
            retry=Retry(max=3, enqueue_at_front=True),
        )
        ours, theirs = raw.hgetall(f"rq:job:{job.id}"), raw.hgetall(f"rq:job:{its_own.id}")
        differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)}
        assert differing <= {b"created_at", b"enqueued_at", b"origin"}
        assert raw.smembers("rq:queues") == {b"rq:queue:seemly-demo", b"rq:queue:its-own"}
        fetched = QueuedJob.fetch(job.id, connection=raw, serializer=JSONSerializer)
        assert fetched.origin == "seemly-demo"


def test_a_full_queue_refuses_further_jobs_and_takes_them_again_later(own_redis: RedisServer, tmp_path: Path) -> None:
    with (
        running_gateway(own_redis.url, tmp_path / "small", queue_limit="3") as gateway,
        parts.client(own_redis.url) as client,
    ):
        client.lpush(keys.SERVICE_TIMES, "4.0", "6.0")
        answers = [httpx.post(f"{gateway.url}/generate", json=REQUEST) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [202, 202, 202, 503]
        assert problem(answers[-1])["code"] == "queue_full"
        assert answers[-1].headers["Retry-After"] == "15"  # three jobs of five seconds
        assert client.llen("rq:queue:seemly-demo") == 3
        parts.take(client, answers[0].json()["id"])
        assert httpx.post(f"{gateway.url}/generate", json=REQUEST).status_code == 202


def unsafe_ones(folder: Path) -> Iterator[RedisServer]:
    """A Redis that forgets jobs when it ends, then one in its place that evicts them."""
    for name, options in (
        ("forgetful", ("--appendonly", "no")),
        ("evicting", ("--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru")),
    ):
        (folder / name).mkdir()
        yield RedisServer(folder / name, *options)


def test_a_redis_that_comes_later_or_takes_anothers_place_must_be_safe_before_a_job_is_accepted(tmp_path: Path) -> None:
    erasure = {"name": "uce-x", "recipe": {"method": "uce", "concepts": ["knife"]}}
    asked = {"/generate": REQUEST, "/compare": REQUEST | {"plans": ["none", "filter"]}, "/erasures": erasure}
    address = tmp_path / "redis.sock"
    with running_gateway(f"unix://{address}", tmp_path / "gateway") as gateway:
        assert problem(httpx.post(f"{gateway.url}/generate", json=REQUEST))["code"] == "redis_unavailable"
        for server in unsafe_ones(tmp_path):
            server.start()
            address.unlink(missing_ok=True)
            address.symlink_to(server.url.removeprefix("unix://"))
            try:
                with parts.client(server.url) as client:
                    parts.announce(client)
                    parts.announce_worker(client)
                    time.sleep(FRESH_S)
                    for path, body in asked.items():
                        answer = httpx.post(f"{gateway.url}{path}", json=body)
                        assert (answer.status_code, problem(answer)["code"]) == (503, "not_ready"), path
                        assert answer.json()["detail"].startswith("Redis ")
                        assert int(answer.headers["Retry-After"]) > 0
                    assert "seemly_redis_unsafe 1.0" in httpx.get(f"{gateway.url}/metrics").text
                    assert not client.exists(keys.ACCEPTED, "rq:queue:seemly-demo")
                    client.config_set("appendonly", "yes")
                    client.config_set("maxmemory-policy", "noeviction")
                    time.sleep(FRESH_S)
                    assert httpx.post(f"{gateway.url}/generate", json=REQUEST).status_code == 202
                    assert "seemly_redis_unsafe 0.0" in httpx.get(f"{gateway.url}/metrics").text
            finally:
                server.close()


def test_a_redis_out_of_memory_refuses_and_keeps_what_it_has(
    own_redis: RedisServer, own_gateway: GatewayProcess
) -> None:
    kept = httpx.post(f"{own_gateway.url}/generate", json=REQUEST).json()["id"]
    with parts.client(own_redis.url) as client:
        client.config_set("maxmemory", "1")
        before = parts.redis_keys(client)
        answer, _ = timed(f"{own_gateway.url}/generate")
        assert (answer.status_code, problem(answer)["code"]) == (503, "redis_unavailable")
        assert parts.redis_keys(client) == before
        assert httpx.get(f"{own_gateway.url}/jobs/{kept}").json()["status"] == "queued"
        client.config_set("maxmemory", "0")
    assert httpx.post(f"{own_gateway.url}/generate", json=REQUEST).status_code == 202
