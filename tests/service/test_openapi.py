"""The OpenAPI description is true: what it allows is understood, what comes back is described."""

import os
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

from service.api_keys import Scope
from service.app import create_app
from service.settings import Settings
from tests.service.conftest import KeyedGateway

# of each operation; some 200 in all; set SEEMLY_FUZZ_CASES for more
CASES = int(os.environ.get("SEEMLY_FUZZ_CASES", "18"))

# A request may fit the schema and still not the model, its tokenizer, the policy or the queue.
CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            "positive_data_acceptance": {
                "expected-statuses": ["2xx", "3xx", "400", "403", "404", "409", "410", "422", "503"]
            },
            "not_a_server_error": {"expected-statuses": ["2xx", "3xx", "4xx", "503"]},
        }
    }
)

schema = schemathesis.openapi.from_dict(create_app(Settings(redis_url="redis://nowhere")).openapi(), config=CONFIG)


@pytest.fixture
def caller(keyed: KeyedGateway) -> Iterator[httpx.Client]:
    with keyed.http("fuzzer", *Scope) as client:
        yield client


@schema.parametrize()
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_described(case: Any, caller: httpx.Client) -> None:
    if case.headers is not None:
        case.headers.pop("prefer", None)  # a wait of a minute, in which no worker comes, proves nothing
    headers = {"Authorization": caller.headers["Authorization"]}
    case.call_and_validate(base_url=str(caller.base_url), headers=headers, timeout=20)


def test_problems_are_described_as_problems(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            assert operation["operationId"]
            assert operation["tags"]
            for status, answer in operation["responses"].items():
                if status.startswith(("4", "5")):
                    told = "application/json" if path.startswith("/v1/") else "application/problem+json"
                    assert list(answer["content"]) == [told], (path, method, status)


def test_every_promised_route_is_there(http: httpx.Client) -> None:
    described = http.get("/openapi.json").json()
    assert {(method, path) for path, operations in described["paths"].items() for method in operations} == {
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
        ("get", "/safety/methods"),
        ("get", "/models"),
        ("get", "/variants"),
        ("get", "/healthz/live"),
        ("get", "/healthz/ready"),
        ("get", "/metrics"),
    }


def test_a_field_that_is_not_served_says_so(http: httpx.Client) -> None:
    fields = http.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]["properties"]
    assert "Not served" in fields["webhook_url"]["description"]


@pytest.mark.parametrize("path", ["/generate", "/compare"])
def test_the_examples_in_the_description_are_served(http: httpx.Client, path: str) -> None:
    body = http.get("/openapi.json").json()["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        assert http.post(path, json=example["value"]).status_code == 202
