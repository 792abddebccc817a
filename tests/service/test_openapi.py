"""The OpenAPI description is true: what it allows is understood, what comes back is described."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from redis import Redis
from schemathesis.config import SchemathesisConfig

from lab.reference import document, reference_of, refusals
from service import problems
from service.api_keys import Scope
from service.description import operations_of
from tests.service import parts
from tests.service.conftest import KeyedGateway

CASES, WALKS = 8, 6  # of each operation; of links, up to 6 steps each; `make fuzz` asks more

CONFIG = Path(__file__).parents[1] / "fuzz.toml"
SUPPRESSED = list(HealthCheck)

DESCRIBED = document()
schema = schemathesis.openapi.from_dict(document(), config=SchemathesisConfig.from_path(CONFIG))


@pytest.fixture
def caller(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http("fuzzer", *Scope) as client:
        yield client


def without_wait(case: Any) -> None:
    """A wait of a minute, in which no worker comes, proves nothing."""
    if case.headers is not None:
        case.headers.pop("prefer", None)


@schema.parametrize()
@settings(max_examples=CASES, derandomize=True, deadline=None, suppress_health_check=SUPPRESSED)
def test_every_answer_is_as_described(case: Any, caller: httpx.Client) -> None:
    without_wait(case)
    headers = {"Authorization": caller.headers["Authorization"]}
    case.call_and_validate(base_url=str(caller.base_url), headers=headers, timeout=20)


def test_links_lead_where_they_say(caller: httpx.Client) -> None:
    linked: Any = schema.exclude(operation_id=["follow_job", "follow_erasure"])  # a stream without a worker has no end
    linked.config.update(base_url=str(caller.base_url))

    class Walk(linked.as_state_machine()):  # type: ignore[misc]
        def before_call(self, case: Any) -> None:
            without_wait(case)

        def get_call_kwargs(self, case: Any) -> dict[str, Any]:
            return {"headers": {"Authorization": caller.headers["Authorization"]}, "timeout": 20}

    walks = settings(max_examples=WALKS, derandomize=True, deadline=None, suppress_health_check=SUPPRESSED)
    run_state_machine_as_test(Walk, settings=settings(walks, stateful_step_count=6))


def answers() -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Path, operation, status and description of every answer."""
    for path, _, operation in operations_of(DESCRIBED):
        for status, answer in operation["responses"].items():
            yield path, operation["operationId"], status, answer


def test_errors_are_described_in_their_shape_and_each_by_its_codes() -> None:
    for path, operation, status, answer in answers():
        if status.startswith(("4", "5")):
            told = "application/json" if path.startswith("/v1/") else "application/problem+json"
            assert list(answer["content"]) == [told], (operation, status)
            assert answer["content"][told]["examples"], (operation, status)


def test_every_refusal_is_described_somewhere() -> None:
    told = set()
    for *_, answer in answers():
        for content in answer.get("content", {}).values():
            told |= set(content.get("examples", ()))
    assert {refusal.code for refusal in refusals()} <= told


def test_the_tree_of_refusals_is_drawn_as_it_stands() -> None:
    drawn = re.findall(r"(\d{3}) ((?:[A-Z]\w+(?:, )?)+)", problems.__doc__ or "")
    told = {(name, int(status)) for status, names in drawn for name in names.split(", ")}
    assert told == {(one.__name__, one.status) for one in (*refusals(), problems.Unavailable)}


def test_every_kind_of_answer_has_an_example() -> None:
    schemas = DESCRIBED["components"]["schemas"]
    for _, operation, status, answer in answers():
        schema = answer.get("content", {}).get("application/json", {}).get("schema", {})
        if status.startswith("2") and "$ref" in schema:
            name = schema["$ref"].rpartition("/")[2]
            assert schemas[name]["examples"], (operation, name)


def test_an_answer_that_names_a_job_leads_to_all_there_is_to_do_with_it() -> None:
    of_a_job, of_a_review, of_an_erasure = (
        {operation["operationId"] for path, _, operation in operations_of(DESCRIBED) if f"{{{name}}}" in path}
        for name in ("job_id", "review_id", "erasure_id")
    )
    leads = {
        operation: set(answer["links"])
        for _, operation, status, answer in answers()
        if status.startswith("2") and "links" in answer
    }
    assert leads == {
        "generate": of_a_job,
        "compare": of_a_job,
        "create_images": of_a_job,
        "add_policy": {"get_policy", "replay_policy"},
        "list_jobs": of_a_job | {"next_page"},
        "list_reviews": of_a_job | of_a_review | {"next_page"},
        "create_erasure": of_an_erasure,
        "list_erasures": of_an_erasure | {"next_page"},
        "list_deliveries": of_a_job | {"get_delivery", "replay_delivery", "next_page"},
    }


def test_the_reference_is_what_the_command_makes_of_the_routes() -> None:
    assert (Path(__file__).parents[2] / "docs" / "api.md").read_text() == reference_of(document()), "run `make docs`"


@pytest.mark.parametrize(
    "path", ["/healthz/live", "/healthz/ready", "/models", "/metrics", "/jobs/{job_id}", "/nothing"]
)
def test_what_answers_get_answers_head_alike_without_a_body(http: httpx.Client, redis: "Redis", path: str) -> None:
    parts.announce_worker(redis)
    address = path.format(job_id=http.post("/generate", json={"prompt": "a quiet street"}).json()["id"])
    whole, head = http.get(address), http.head(address)
    passing = ("x-request-id", "date", *(("content-length",) if path == "/metrics" else ()))
    same = [{name: value for name, value in one.headers.items() if name not in passing} for one in (whole, head)]
    assert (head.status_code, same[1], head.content) == (whole.status_code, same[0], b"")


def test_head_of_an_event_stream_ends_and_of_what_is_posted_is_refused(http: httpx.Client, redis: "Redis") -> None:
    job_id = http.post("/generate", json={"prompt": "a quiet street"}).json()["id"]
    head = http.head(f"/jobs/{job_id}/events")
    assert (head.status_code, head.headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
    assert http.get(f"/jobs/{job_id}").json()["status"] == "queued"  # over the same connection
    refused = http.head("/generate")
    assert (refused.status_code, refused.headers["Allow"]) == (405, "POST")
    assert http.post("/models").headers["Allow"] == "GET, HEAD"


def test_every_promised_route_is_there() -> None:
    assert {(method, path) for path, method, _ in operations_of(DESCRIBED)} == {
        ("post", "/generate"),
        ("post", "/compare"),
        ("get", "/jobs/{job_id}/contact-sheet.png"),
        ("get", "/jobs"),
        ("get", "/jobs/{job_id}"),
        ("delete", "/jobs/{job_id}"),
        ("post", "/jobs/{job_id}/cancel"),
        ("get", "/jobs/{job_id}/events"),
        ("get", "/jobs/{job_id}/images/{index}"),
        ("get", "/jobs/{job_id}/explanation.png"),
        ("post", "/v1/images/generations"),
        ("post", "/moderate"),
        ("get", "/moderate/{moderation_id}"),
        ("post", "/moderate/{moderation_id}/appeal"),
        ("get", "/drift"),
        ("post", "/jobs/{job_id}/reproduce"),
        ("post", "/v1/moderations"),
        ("post", "/v1/provenance/verify"),
        ("get", "/policies"),
        ("post", "/policies"),
        ("get", "/policies/{policy_id}"),
        ("post", "/policies/{policy_id}/replay"),
        ("put", "/tenants/{tenant}/policy"),
        ("delete", "/tenants/{tenant}/policy"),
        ("get", "/webhooks/deliveries"),
        ("get", "/webhooks/deliveries/{delivery_id}"),
        ("post", "/webhooks/deliveries/{delivery_id}/replay"),
        ("get", "/reviews"),
        ("get", "/reviews/{review_id}"),
        ("post", "/reviews/{review_id}"),
        ("get", "/reviews/{review_id}/thumbnail"),
        ("get", "/reviews/{review_id}/picture"),
        ("post", "/jobs/{job_id}/appeal"),
        ("get", "/safety/methods"),
        ("get", "/models"),
        ("get", "/variants"),
        ("post", "/variants/{name}/promote"),
        ("post", "/variants/{name}/retire"),
        ("post", "/erasures"),
        ("get", "/erasures"),
        ("get", "/erasures/{erasure_id}"),
        ("delete", "/erasures/{erasure_id}"),
        ("get", "/erasures/{erasure_id}/events"),
        ("get", "/healthz/live"),
        ("get", "/healthz/ready"),
        ("get", "/metrics"),
    }


def test_what_webhooks_are_sent_is_described(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    [message] = described["webhooks"].values()
    body = message["post"]["requestBody"]["content"]["application/json"]["schema"]
    told = described["components"]["schemas"][body["$ref"].rpartition("/")[2]]
    assert set(told["properties"]) == {"type", "timestamp", "data"}
    assert list(message["post"]["responses"]) == ["204"]


@pytest.mark.parametrize("path", ["/generate", "/compare"])
def test_the_examples_in_the_description_are_served(http: httpx.Client, path: str) -> None:
    body = http.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        assert http.post(path, json=example["value"]).status_code == 202
