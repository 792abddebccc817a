"""The whole stack, watched from outside: by a real Prometheus, by a collector of traces, through its logs."""

import json
import os
import threading
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from contract.compare import CompareRequest
from contract.request import GenerateRequest
from contract.result import JobView
from lab import dashboard
from seemly.client import Client
from seemly.embedded import EmbeddedStack
from seemly.settings import Settings
from seemly.webhooks import app as webhooks_app
from tests.collector import Collector, Seen, collecting
from tests.contract.test_upload import COLOURS, file_of
from tests.prometheus import asked_over, needs_prometheus, running_prometheus
from tests.seemly.processes import eventually
from tests.service.receiver import receiving
from tests.service.test_webhook_delivery import free_port

pytestmark = pytest.mark.timeout(400)

PANELS = [panel for panels in dashboard.ROWS.values() for panel in panels]
PORTS = {"worker": "SEEMLY_METRICS_PORT", "webhooks": "SEEMLY_WEBHOOK_METRICS_PORT"}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def stack(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[EmbeddedStack]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("SEEMLY_") or name in ("PORT", "REDIS_URL")]:
            patch.delenv(name)
        for name in PORTS.values():
            patch.setenv(name, str(free_port()))
        patch.setenv("SEEMLY_DEVICE", "cpu")
        patch.setenv("SEEMLY_TORCH_THREADS", "1")
        patch.setenv("SEEMLY_WEBHOOK_NETWORKS", "127.0.0.1/32")
        patch.setenv("SEEMLY_LOG_FORMAT", "json")
        patch.setenv("SEEMLY_OTLP_URL", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "200")  # milliseconds between two sendings
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


PROMPT = "a canary that nobody may repeat"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def followed(stack: EmbeddedStack, **headers: str) -> JobView:
    """A job of two pictures, to its end."""
    body = {"prompt": PROMPT, "steps": 2, "num_images": 2, "safety": "filter"}
    answer = httpx.post(f"{stack.url}/generate", json=body, headers={"Prefer": "wait=60", **headers}, timeout=70)
    assert answer.status_code == 200, answer.text
    return JobView.model_validate(answer.json())


def test_a_jobs_trace_leads_from_the_request_to_every_stage(stack: EmbeddedStack, collector: Collector) -> None:
    job = followed(stack, traceparent=PARENT)
    assert eventually(lambda: {"POST /generate", "job"} <= {span.name for span in collector.trace_of(job.id)})
    spans = collector.trace_of(job.id)
    by_id = {span.span_id: span for span in spans}

    def path(span: Seen) -> str:
        return f"{path(by_id[span.parent_id])} > {span.name}" if span.parent_id in by_id else span.name

    to_job = "POST /generate > accept > job"
    of_picture = ("room", "text", "denoise", "turn", "decode", "judge")
    assert Counter(map(path, spans)) == {
        "POST /generate": 1,
        "POST /generate > accept": 1,
        to_job: 1,
        **{f"{to_job} > {stage}": 1 for stage in ("queue", "store", "commit")},
        f"{to_job} > picture": 2,
        **{f"{to_job} > picture > {stage}": 2 for stage in of_picture},
    }
    _, trace_id, _, _ = PARENT.split("-")
    assert len({span.trace_id for span in spans}) == 1
    [request] = [span for span in spans if span.name == "POST /generate"]
    assert (request.parent_id, request.linked, request.process) == ("", (trace_id,), "seemly-gateway")
    assert {span.process for span in spans if span.name not in ("POST /generate", "accept")} == {"seemly-worker"}
    for span in spans:
        assert span.began <= span.ended
        if span.parent_id in by_id and span.name not in ("job", "queue"):  # which begin and end where others do not
            parent = by_id[span.parent_id]
            assert parent.began - 0.001 <= span.began <= span.ended <= parent.ended + 0.001, path(span)
    [told] = [span for span in spans if span.name == "job"]
    assert (told.attributes["seemly.mode"], told.attributes["seemly.outcome"]) == ("filter", job.status.value)
    assert not any("canary" in str(span) for span in spans)


def test_a_moderations_trace_leads_to_its_judgement(stack: EmbeddedStack, collector: Collector) -> None:
    body = {"images": [b64encode(file_of(COLOURS)).decode()]}
    answer = httpx.post(f"{stack.url}/moderate", json=body, timeout=70)
    assert answer.status_code == 200, answer.text

    def moderated() -> list[Seen]:
        jobs = [one for one in collector.spans if one.name == "job" and one.attributes["seemly.mode"] == "moderate"]
        return [one for one in collector.spans if jobs and one.trace_id == jobs[0].trace_id]

    assert eventually(lambda: "POST /moderate" in {span.name for span in moderated()})
    named = ["POST /moderate", "accept", "commit", "job", "judge", "picture", "queue", "room", "store"]
    assert sorted(span.name for span in moderated()) == named


def test_probes_and_metrics_are_not_traced(stack: EmbeddedStack, collector: Collector) -> None:
    for path in ("/healthz/live", "/healthz/ready", "/metrics"):
        httpx.get(f"{stack.url}{path}")
    followed(stack)
    assert eventually(lambda: any(span.name == "job" for span in collector.spans))
    assert not any("healthz" in span.name or "metrics" in span.name for span in collector.spans)


def test_logs_are_json_with_ids_and_without_prompts(stack: EmbeddedStack) -> None:
    job = followed(stack, **{"X-Request-ID": "asked-by-a-test"})
    until = time.monotonic() + 20  # the worker's line follows what is visible
    while job.id not in (stack.logs / "worker.log").read_text() and time.monotonic() < until:
        time.sleep(0.05)
    logs = {name: (stack.logs / f"{name}.log").read_text() for name in ("gateway", "worker", "webhooks")}
    assert not any("canary" in text for text in logs.values())
    lines = {name: [json.loads(line) for line in text.splitlines()] for name, text in logs.items()}
    assert all({"time", "level", "logger", "message"} <= line.keys() for each in lines.values() for line in each)
    for name in ("gateway", "worker"):
        about_job = [line for line in lines[name] if line.get("job_id") == job.id]
        assert {line["request_id"] for line in about_job} == {"asked-by-a-test"}, name
    assert [line["message"] for line in lines["worker"] if line.get("job_id") == job.id] == [
        f"job {job.id}: {job.status}"
    ]
