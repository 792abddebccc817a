"""What probes are told of a worker: while it loads, works, waits for Redis, drains, and no longer turns."""

from pathlib import Path

import httpx
import pytest

from contract.health import HealthServer
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import PacedEngine
from workers import worker as worker_module


def told(health: HealthServer) -> tuple[int, ...]:
    """Started, ready, live."""
    address = f"http://127.0.0.1:{health.port}/healthz"
    return tuple(httpx.get(f"{address}/{what}").status_code for what in ("started", "ready", "live"))


def test_probes_follow_a_worker_through_its_life(
    server: RedisServer, engine: PacedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_module, "TURNS_WITHIN_S", 1.0)
    health = HealthServer(0, "127.0.0.1")
    health.listen()
    with health:
        assert told(health) == (503, 503, 200)  # the model still loads
        with working(server, tmp_path, engine, step_limit_s=1.0) as running:
            health.observed = running.worker
            assert eventually(lambda: told(health) == (200, 200, 200))
            server.freeze()  # no lease is renewed, and a restart would not help
            assert eventually(lambda: told(health) == (200, 503, 200))
            server.thaw()
            assert eventually(lambda: told(health) == (200, 200, 200))
        assert told(health)[1] == 503
        assert eventually(lambda: told(health) == (200, 503, 503))
        assert httpx.get(f"http://127.0.0.1:{health.port}/").status_code == 404
