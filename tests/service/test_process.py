"""The gateway's process: light, without torch, on loopback only, and gone when told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from redis import Redis

from contract import keys
from service.loopback import is_loopback
from tests.redis_server import RedisServer, running_redis
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.conftest import running_gateway

IDLE_LIMIT_MB = 150
FORBIDDEN = ("torch", "workers", "lab", "transformers", "diffusers", "numpy", "matplotlib")


def resident_mb(process_id: int) -> float:
    (line,) = (line for line in Path(f"/proc/{process_id}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_the_process_maps_no_torch_and_idles_under_150_mb(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path
) -> None:
    with running_gateway(redis_server.url, tmp_path, log_level="info") as gateway:
        idle_mb = resident_mb(gateway.process.pid)
        for _ in range(20):
            assert httpx.post(f"{gateway.url}/generate", json={"prompt": "a harbour"}).status_code == 202
        httpx.get(f"{gateway.url}/openapi.json")
        used_mb = resident_mb(gateway.process.pid)
        mapped = Path(f"/proc/{gateway.process.pid}/maps").read_text()
    print(f"idle {idle_mb:.0f} MB, after use {used_mb:.0f} MB")  # noqa: T201
    assert idle_mb < IDLE_LIMIT_MB
    assert used_mb < IDLE_LIMIT_MB
    assert "libtorch" not in mapped
    assert "/torch/" not in mapped


def test_the_gateway_imports_none_of_the_gpu_side() -> None:
    """Every module that `python -m service.main` loads, the lazily loaded routes of the app included."""
    listing = (
        "import sys, service.main, service.app, service.settings\n"
        "service.app.create_app(service.settings.Settings(data='/tmp/seemly-import-test')).openapi()\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True)
    assert not set(FORBIDDEN) & set(done.stdout.split())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "::", "example.org", ""])  # noqa: S104
def test_an_address_that_others_can_reach_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_is_loopback(host: str) -> None:
    assert is_loopback(host)


def test_the_gateway_refuses_to_listen_beyond_loopback_without_keys(redis_server: RedisServer, redis: "Redis") -> None:
    environment = {"SEEMLY_HOST": "0.0.0.0", "REDIS_URL": redis_server.url}  # noqa: S104
    command = [sys.executable, "-m", "service.main"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "no API keys yet: make one with `seemly keys create TENANT`" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [("appendonly", "no", "appendonly to yes"), ("maxmemory-policy", "allkeys-lru", "maxmemory-policy to noeviction")],
)
def test_the_gateway_refuses_a_redis_that_loses_jobs_unless_told_otherwise(
    option: str, value: str, told: str, tmp_path: Path
) -> None:
    options = ("--maxmemory", "1gb", f"--{option}", value)
    with running_redis(tmp_path, *options) as server, parts.client(server.url) as client:
        environment = {"SEEMLY_DATA": str(tmp_path), "REDIS_URL": server.url}
        command = [sys.executable, "-m", "service.main"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, len(done.stderr.splitlines())) == (os.EX_CONFIG, 1)
        assert told in done.stderr
        assert "SEEMLY_ALLOW_UNSAFE_REDIS=true" in done.stderr
        parts.announce_worker(client)
        with running_gateway(server.url, tmp_path / "gateway", allow_unsafe_redis="true") as gateway:
            assert httpx.get(f"{gateway.url}/healthz/ready").status_code == 200


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("SEEMLY_PORT", "many", "SEEMLY_PORT: must be a whole number"),
        ("SEEMLY_POLICY", "lax", "SEEMLY_POLICY: no policy 'lax'"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(variable: str, value: str, told: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "service.main"],
        env={"SEEMLY_DATA": str(tmp_path), variable: value},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (os.EX_CONFIG, 1)
    assert told in done.stderr


@pytest.mark.parametrize("wrong", ["BREW / HTTP/1.1\r\n", "POST /generate HTTP/1.1\r\nContent-Length: many\r\n"])
def test_what_is_not_http_gets_a_problem_as_well(wrong: str, redis_server: RedisServer, tmp_path: Path) -> None:
    with running_gateway(redis_server.url, tmp_path) as gateway:
        address = httpx.URL(gateway.url)
        with socket.create_connection((address.host, address.port), timeout=5) as connection:
            connection.sendall(f"{wrong}Host: localhost\r\n\r\n".encode())
            head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
        assert httpx.get(f"{gateway.url}/healthz/live").is_success
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["code"] == "bad_request"


def test_the_process_lives_without_redis_and_ends_when_told(tmp_path: Path) -> None:
    with running_gateway(f"unix://{tmp_path}/nothing", tmp_path) as gateway:
        assert httpx.get(f"{gateway.url}/healthz/live").json() == {"status": "live"}
        for path in ("/healthz/ready", "/models"):
            answer = httpx.get(f"{gateway.url}{path}")
            assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
            assert int(answer.headers["Retry-After"]) > 0
        gateway.process.terminate()
        assert gateway.process.wait(15) in (0, -15)


def test_an_open_stream_does_not_keep_the_process_from_ending(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path
) -> None:
    with running_gateway(redis_server.url, tmp_path) as gateway:
        job_id = httpx.post(f"{gateway.url}/generate", json={"prompt": "a harbour"}).json()["id"]
        with httpx.stream("GET", f"{gateway.url}/jobs/{job_id}/events", timeout=20) as answer:
            lines = answer.iter_lines()
            next(lines)
            gateway.process.terminate()
            gateway.process.wait(9)
            with suppress(httpx.RemoteProtocolError):
                list(lines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_whoever_waits_for_a_job_is_given_its_address_when_the_process_ends(
    redis_server: RedisServer, redis: "Redis", tmp_path: Path, number: signal.Signals
) -> None:
    def ask() -> httpx.Response:
        return httpx.post(
            f"{gateway.url}/generate", json={"prompt": "a harbour"}, headers={"Prefer": "wait=60"}, timeout=60
        )

    def retire() -> httpx.Response:
        return httpx.post(f"{gateway.url}/variants/{parts.VARIANT.name}/retire", json={"reason": "old"}, timeout=60)

    with running_gateway(redis_server.url, tmp_path) as gateway, ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(ask) for _ in range(5)]
        assert eventually(lambda: redis.zcard(keys.ACCEPTED) == 5)
        changing = pool.submit(retire)
        assert eventually(lambda: "seemly_event_listeners 6.0" in httpx.get(f"{gateway.url}/metrics").text)
        began = time.monotonic()
        gateway.process.send_signal(number)
        answers = [answer.result() for answer in asked]
        assert gateway.process.wait(15) in (0, -number)
        assert time.monotonic() - began < 8
    assert (changing.result().status_code, changing.result().json()["code"]) == (503, "not_moved")
    for answer in answers:
        assert (answer.status_code, answer.json()["status"]) == (202, "queued")
        assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
    assert "Traceback" not in gateway.log.read_text()
