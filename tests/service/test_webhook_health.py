"""What probes are told of the delivery of webhooks: whether its own loop turns, and whether Redis lets it take."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from redis.asyncio import Redis

from contract.health import HealthServer
from service.webhooks import deliverer
from service.webhooks.connecting import SystemResolver
from service.webhooks.deliverer import Deliverer
from service.webhooks.metrics import DeliveryMetrics
from service.webhooks.outbox import Outbox
from service.webhooks.sending import Sender
from service.webhooks.settings import Settings
from tests.redis_server import running_redis
from tests.seemly.processes import eventually


def told(health: HealthServer) -> tuple[int, ...]:
    """Started, ready, live."""
    address = f"http://127.0.0.1:{health.port}/healthz"
    return tuple(httpx.get(f"{address}/{what}").status_code for what in ("started", "ready", "live"))


@contextmanager
def delivering(url: str, health: HealthServer) -> Iterator[None]:
    """A loop in a thread, whose client waits for Redis without end: with it frozen, the loop hangs."""
    settings = Settings(webhook_timeout_s=0.2, webhook_lease_s=0.5)
    loop, leaving = asyncio.new_event_loop(), asyncio.Event()

    async def deliver() -> None:
        async with Redis.from_url(url, decode_responses=True, protocol=2) as redis:
            sender = Sender(resolver, settings.webhook_networks, settings.webhook_timeout_s)
            health.observed = working = Deliverer(settings, Outbox(redis), sender, DeliveryMetrics())
            await working.run(leaving)

    resolver = SystemResolver(1)
    thread = threading.Thread(target=lambda: loop.run_until_complete(deliver()))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(leaving.set)
        thread.join(20)
        loop.close()
        resolver.close()


def test_probes_follow_the_loop_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer, "TURNS_WITHIN_S", 1.0)
    health = HealthServer(0, "127.0.0.1")
    health.listen()
    with running_redis(tmp_path) as server, health:
        assert told(health) == (503, 503, 200)
        with delivering(server.url, health):
            assert eventually(lambda: told(health) == (200, 200, 200))
            server.freeze()
            assert eventually(lambda: told(health) == (200, 503, 200))
            assert eventually(lambda: told(health) == (200, 503, 503))
            server.thaw()
            assert eventually(lambda: told(health) == (200, 200, 200))
