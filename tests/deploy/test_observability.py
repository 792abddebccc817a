"""The dashboard and the alerts that are shipped."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from lab import dashboard
from service.metrics import Metrics, Stock
from service.queue import Load
from service.webhooks.metrics import DeliveryMetrics
from tests.deploy.compose import SERVICES
from tests.prometheus import ALERTS, OBSERVABILITY, needs_prometheus
from workers.metrics import WorkerMetrics

ROOT = OBSERVABILITY.parents[1]
PROCESS = {"process_resident_memory_bytes"}


def rules() -> list[dict[str, object]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def told_metrics() -> set[str]:
    """Names of every sample that some process of ours tells or can tell."""
    stock = Stock({"demo": Load(1, 1, 1, 1.0)}, ["demo"], {}, 1, 1)
    expositions = [
        Metrics(lambda: 0).exposition(stock),
        *(generate_latest(metrics.registry) for metrics in (WorkerMetrics(), DeliveryMetrics())),
    ]
    named = set()
    for exposition in expositions:
        for family in text_string_to_metric_families(exposition.decode()):
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
            named |= {family.name + ending for ending in endings}
    return named


def metrics_in(query: str) -> set[str]:
    return set(re.findall(r"\b(?:seemly|process)_[a-z_]+", query))


def test_the_dashboard_is_as_its_panels_say() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "write it again: make docs"


def test_every_query_asks_for_metrics_that_exist() -> None:
    panels = [panel for panel in json.loads(dashboard.FILE.read_text())["panels"] if panel["type"] != "row"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(panels) > 25
    asked = {name for query in [*queries, *(str(rule["expr"]) for rule in rules())] for name in metrics_in(query)}
    assert asked - told_metrics() <= PROCESS
    assert len(asked) > 30


LABELS = {"mode", "outcome", "concept", "stage", "queue", "model", "weights", "verdict", "code", "end", "kind"}
LABELS |= {"state", "route", "method", "status", "field"}
ASKED_FOR = {
    "queue wait": "seemly_worker_queue_wait_seconds_bucket",
    "stages": "seemly_worker_stage_seconds_bucket",
    "safety scores": "seemly_worker_safety_score_margin_bucket",
    "rows per tick": "seemly_worker_tick_rows_bucket",
    "padding": "seemly_worker_unet_padding_rows_total",
    "corrections": "seemly_worker_corrections_total",
    "detector errors": "seemly_worker_picture_errors_total",
    "model load": "seemly_worker_model_load_seconds",
    "memory": "seemly_worker_memory_bytes",
}


def test_what_was_asked_for_is_told_and_no_label_is_a_prompts_or_a_users() -> None:
    assert set(ASKED_FOR.values()) <= told_metrics()
    registries = (Metrics(lambda: 0)._registry, WorkerMetrics().registry, DeliveryMetrics().registry)
    collectors = [collector for registry in registries for collector in registry._collector_to_names]
    named = {label for collector in collectors for label in getattr(collector, "_labelnames", ())}
    assert {"mode", "concept", "route"} <= named <= LABELS


def test_metrics_keep_to_prometheus_conventions() -> None:
    for name in told_metrics():
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)(_|$)", name), name


def test_what_alerts_count_is_told_before_the_first_time() -> None:
    """An increase is not seen of a series that begins with it."""
    exprs = " ".join(str(rule["expr"]) for rule in rules())
    counted = re.findall(r"increase\((seemly_worker_\w+)\{([^}]*=\"[^}]*)\}", exprs)
    assert len(counted) > 2
    told = generate_latest(WorkerMetrics().registry).decode()
    samples = [sample for family in text_string_to_metric_families(told) for sample in family.samples]
    for name, matchers in counted:
        wanted = set(re.findall(r'(\w+)="([^"]*)"', matchers))
        assert any(sample.name == name and wanted <= set(sample.labels.items()) for sample in samples), (name, matchers)


def test_every_alert_leads_to_a_playbook_that_exists() -> None:
    for rule in rules():
        annotations = rule["annotations"]
        assert isinstance(annotations, dict)
        file, _, heading = annotations["runbook"].partition("#")
        text = (ROOT / file).read_text()
        anchors = {re.sub(r"[^\w -]", "", line.lstrip("# ").lower()).replace(" ", "-") for line in _headings(text)}
        assert not heading or heading in anchors, (rule["alert"], heading)


def _headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


@needs_prometheus
def test_the_alerts_pass_their_unit_tests() -> None:
    tests = ALERTS.with_name("alerts.test.yaml")
    checked = subprocess.run(["promtool", "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    passed = subprocess.run(["promtool", "test", "rules", tests], capture_output=True, text=True, check=False)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    fired = {
        test["alertname"]
        for group in yaml.safe_load(tests.read_text())["tests"]
        for test in group["alert_rule_test"]
        if test.get("exp_alerts")
    }
    assert fired == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("url", ["", "https://alerts.example/hook?token=a"])
def test_alertmanager_tells_whom_it_is_told_to_tell(url: str, tmp_path: Path) -> None:
    """The script of the image up to where Alertmanager itself begins; its own tool reads what was written."""
    begun = tmp_path / "alertmanager"
    begun.write_text('#!/bin/sh\necho "$@"\n')
    begun.chmod(0o755)
    written = tmp_path / "written.yml"
    told = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ALERTMANAGER_YML": str(written), "ALERTS_URL": url}
    command = ["sh", OBSERVABILITY / "alertmanager" / "start.sh"]
    done = subprocess.run(command, env=told, capture_output=True, text=True, check=True)
    assert f"--config.file={written}" in done.stdout
    assert ("go to nobody" in done.stderr) == (not url)
    config = yaml.safe_load(written.read_text())
    [receiver] = config["receivers"]
    assert config["route"]["receiver"] == receiver["name"]
    assert [one["url"] for one in receiver.get("webhook_configs", [])] == ([url] if url else [])
    severities = {rule["labels"]["severity"] for rule in rules()}
    assert severities == {"page", "ticket"}
    if amtool := shutil.which("amtool"):
        subprocess.run([amtool, "check-config", written], check=True, capture_output=True)
    refused = subprocess.run(command, env=told | {"ALERTS_URL": "a' b"}, capture_output=True, text=True)
    assert (refused.returncode, "must be an address" in refused.stderr) == (78, True)


def test_prometheus_scrapes_and_tells_services_that_there_are() -> None:
    config = yaml.safe_load((OBSERVABILITY / "prometheus" / "prometheus.yml").read_text())
    named = set()
    for job in config["scrape_configs"]:
        for found in job.get("dns_sd_configs", []):
            named |= set(found["names"])
        named |= {target.partition(":")[0] for found in job.get("static_configs", []) for target in found["targets"]}
    making = {name for name in SERVICES if name.startswith(("worker", "lab"))}
    assert named == {"gateway", "webhooks", *making}
    [[alerting]] = [
        [one["targets"] for one in found["static_configs"]] for found in config["alerting"]["alertmanagers"]
    ]
    assert alerting == ["alertmanager:9093"]
    assert "alertmanager" in SERVICES
