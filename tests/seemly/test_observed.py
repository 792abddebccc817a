"""The whole stack, watched from outside: by a real Prometheus."""

import json
import os
import threading
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from contract.compare import CompareRequest
from contract.request import GenerateRequest
from lab import dashboard
from seemly.client import Client
from seemly.embedded import EmbeddedStack
from seemly.settings import Settings
from seemly.webhooks import app as webhooks_app
from tests.prometheus import asked_over, needs_prometheus, running_prometheus
from tests.service.receiver import receiving
from tests.service.test_webhook_delivery import free_port

pytestmark = pytest.mark.timeout(400)

PANELS = [panel for panels in dashboard.ROWS.values() for panel in panels]
PORTS = {"worker": "SEEMLY_METRICS_PORT", "webhooks": "SEEMLY_WEBHOOK_METRICS_PORT"}


@pytest.fixture(scope="module")
def stack(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStack]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SEEMLY_") or name in ("PORT", "REDIS_URL")]:
            patch.delenv(name)
        for name in PORTS.values():
            patch.setenv(name, str(free_port()))
        for name, value in {"DEVICE": "cpu", "TORCH_THREADS": "1", "WEBHOOK_NETWORKS": "127.0.0.1/32"}.items():
            patch.setenv(f"SEEMLY_{name}", value)
        settings = Settings(model=str(tiny_folder), model_name="tiny", data=tmp_path_factory.mktemp("stack"), port=0)
        with EmbeddedStack(settings) as running:
            yield running


def load(url: str, receiver: str, is_over: threading.Event) -> None:
    """Jobs of many modes, two a second."""
    asked = cycle(
        [
            GenerateRequest(prompt="a cat", steps=2, safety=["unguidance:filter", "filter"]),
            GenerateRequest(prompt="a dog", steps=3, num_images=3, webhook_url=receiver),
            CompareRequest(prompt="a cat", steps=2, plans=["none", "unguidance:filter", "filter"]),
        ]
    )
    with Client(url) as client:
        while not is_over.wait(0.5):
            wanted = next(asked)
            client.compare(wanted) if isinstance(wanted, CompareRequest) else client.generate(wanted)


@needs_prometheus
@pytest.mark.parametrize(
    "seconds", [pytest.param(15, id="15 s"), pytest.param(120, id="2 min", marks=pytest.mark.slow)]
)
def test_every_query_of_the_dashboard_returns_data(stack: EmbeddedStack, tmp_path: Path, seconds: int) -> None:
    secret = ["secret", "create", "local", "--json"]
    CliRunner(env={"SEEMLY_DATA": str(stack.logs.parent)}).invoke(webhooks_app, secret)
    targets = {"gateway": int(stack.url.rpartition(":")[2]), **{job: int(os.environ[p]) for job, p in PORTS.items()}}
    is_over = threading.Event()
    with receiving() as receiver, running_prometheus(tmp_path, free_port(), targets) as prometheus:
        sending = threading.Thread(target=load, args=(stack.url, receiver.url, is_over))
        sending.start()
        try:
            time.sleep(seconds)
            assert {target["health"] for target in prometheus.ask("targets")["activeTargets"]} == {"up"}
            empty = [
                (panel.title, query)
                for panel in PANELS
                for query, _ in panel.queries
                if not prometheus.values(asked_over(query, f"{min(seconds, 30)}s"))
            ]
        finally:
            is_over.set()
            sending.join()
        assert not empty
        rules = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
        assert len(rules) > 10
        assert {(rule["health"], rule["state"]) for rule in rules} == {("ok", "inactive")}, json.dumps(rules, indent=1)
