"""A real Redis, a real gateway process, a model announced."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from service.api_keys import KeyRing, Scope
from tests.redis_server import RedisServer, running_redis
from tests.service import parts


@dataclass(frozen=True)
class GatewayProcess:
    """A gateway in a process of its own, as it is run in earnest."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path
    pictures: Path


@contextmanager
def running_gateway(redis_url: str, folder: Path, **settings: str) -> Iterator[GatewayProcess]:
    """Start `python -m service.main` on a free port of loopback and end it afterwards."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "gateway.log"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SEEMLY_")},
        "REDIS_URL": redis_url,
        "SEEMLY_DATA": str(folder),
        "SEEMLY_PORT": str(port),
        "SEEMLY_LOG_LEVEL": "debug",
        **{f"SEEMLY_{name.upper()}": value for name, value in settings.items()},
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.main"], env=environment, stdout=output, stderr=output
        )
    gateway = GatewayProcess(f"http://127.0.0.1:{port}", process, log, folder / "pictures")
    try:
        _wait_until_live(gateway)
        yield gateway
    finally:
        process.terminate()
        process.wait(15)


def _wait_until_live(gateway: GatewayProcess) -> None:
    ends = time.monotonic() + 150  # a starved machine is slow, not wrong
    while True:
        try:
            httpx.get(f"{gateway.url}/healthz/live")
            return
        except httpx.TransportError:
            if gateway.process.poll() is not None or time.monotonic() > ends:
                raise AssertionError(gateway.log.read_text()) from None
            time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    # Patient, as a starved machine is no outage; test_outages.py has gateways with the limits that are shipped.
    with running_gateway(redis_server.url, tmp_path_factory.mktemp("gateway"), redis_timeout_s="20") as running:
        yield running


@contextmanager
def on_the_line(http: httpx.Client, path: str, body: Any) -> Iterator[None]:
    """A POST whose client hangs up when this is left, whatever became of it."""
    content = json.dumps(body).encode()
    told = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(content)}"
    with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=10) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\n{told}\r\n\r\n".encode() + content)
        yield


@dataclass(frozen=True)
class KeyedGateway:
    """A gateway that wants keys, a Redis of its own, and who makes the keys."""

    gateway: GatewayProcess
    redis: "Redis"
    ring: KeyRing

    def http(self, tenant: str, *scopes: Scope) -> httpx.Client:
        """Talks to the gateway with a new key."""
        key, _ = self.ring.create(tenant, scopes)
        return httpx.Client(base_url=self.gateway.url, headers={"Authorization": f"Bearer {key}"}, timeout=30)


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeyedGateway]:
    folder = tmp_path_factory.mktemp("keyed")
    with running_redis(folder) as server, parts.client(server.url) as client:
        ring = KeyRing(client, None, folder / "pepper")
        ring.create("first", [Scope.GENERATE])
        settings = {
            "redis_timeout_s": "20",
            "limit_requests": "100000/minute",
            "images_wait_s": "0.1",
            "moderation_wait_s": "0.1",
        }
        with running_gateway(server.url, folder, **settings) as gateway:
            parts.announce(client)
            parts.announce_worker(client, lease_s=3600)
            yield KeyedGateway(gateway, client, ring)


@pytest.fixture
def redis(redis_server: RedisServer) -> Iterator["Redis"]:
    """Empty but for one announced model."""
    with parts.client(redis_server.url) as client:
        client.flushall()
        parts.announce(client)
        yield client


@pytest.fixture
def http(gateway: GatewayProcess, redis: "Redis") -> Iterator[httpx.Client]:
    """Talks to the gateway."""
    with httpx.Client(base_url=gateway.url, timeout=30) as client:
        yield client
