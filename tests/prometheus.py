"""A real Prometheus, where Debian's package is installed."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

OBSERVABILITY = Path(__file__).parents[1] / "deploy/observability"
ALERTS = OBSERVABILITY / "prometheus/alerts.yaml"
needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="prometheus and promtool are not installed (Debian: apt-get install prometheus)",
)


@dataclass(frozen=True)
class Prometheus:
    """Asked over its own API."""

    url: str

    def ask(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def values(self, query: str) -> list[float]:
        """What a query gives now; series without a number, as of a mean over nothing, left out."""
        found = [float(sample["value"][1]) for sample in self.ask("query", query=query)["result"]]
        return [value for value in found if value == value]


@contextmanager
def running_prometheus(folder: Path, port: int, targets: Mapping[str, int]) -> Iterator[Prometheus]:
    """Scrapes ports of loopback every second, by job's name, and evaluates our alerts."""
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
            for job, target in targets.items()
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(f"http://127.0.0.1:{port}")
    try:
        ends = time.monotonic() + 60
        while not _is_ready(prometheus):
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < ends, (folder / "prometheus.log").read_text()
            time.sleep(0.05)
        yield prometheus
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(prometheus: Prometheus) -> bool:
    try:
        return httpx.get(f"{prometheus.url}/-/ready").is_success
    except httpx.TransportError:
        return False


def asked_over(query: str, window: str) -> str:
    """A dashboard's query as Grafana would send it."""
    return re.sub(r"\$__rate_interval", window, query)
