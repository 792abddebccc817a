"""The OpenAPI document: what FastAPI says of the routes, with our problems, links between operations and examples."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.compatible.errors import PREFIX, ErrorAnswer, error_of
from service.examples import a_job, judged, policies, served, webhooks
from service.problem_json import MEDIA_TYPE, Problem, documented
from service.problems import (
    BodyTooLarge,
    ForeignHost,
    ForeignOrigin,
    InvalidRequest,
    MissingScope,
    NotReady,
    RecordDamaged,
    RedisAway,
    Refusal,
    ResultExpired,
    TooManyRequests,
    Unauthenticated,
)
from service.refused_prompts import PromptRefused

# Operations whose answers name something, and what stands where: with it, all operations on that thing can be called.
_NAMED: dict[str, dict[str, str]] = {
    "generate": {"job_id": "$response.body#/id"},
    "compare": {"job_id": "$response.body#/id"},
    "create_images": {"job_id": "$response.body#/job_id"},
    "add_policy": {"policy_id": "$response.body#/id"},
    "list_jobs": {"job_id": "$response.body#/jobs/0/id"},
    "list_reviews": {"review_id": "$response.body#/reviews/0/id", "job_id": "$response.body#/reviews/0/job_id"},
    "create_erasure": {"erasure_id": "$response.body#/id"},
    "list_erasures": {"erasure_id": "$response.body#/erasures/0/id"},
    "list_deliveries": {
        "delivery_id": "$response.body#/deliveries/0/id",
        "job_id": "$response.body#/deliveries/0/job_id",
    },
}
_FIRST_OF = {"index": 0}
_PAGES = ("list_jobs", "list_erasures", "list_deliveries", "list_reviews")

_QUOTAS = {
    "RateLimit-Policy": {
        "description": "The tenant's quotas, where it has any: `requests` in a window; where a job is handed in, also"
        " unfinished `jobs` and their `cost`. See draft-ietf-httpapi-ratelimit-headers.",
        "schema": {"type": "string"},
    },
    "RateLimit": {"description": "What is left of each.", "schema": {"type": "string"}},
}

Operation = dict[str, Any]


def describe(app: FastAPI) -> dict[str, Any]:
    """The app's document, made once."""
    if app.openapi_schema is None:
        described = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            webhooks=app.webhooks.routes,
        )
        for sent in described["webhooks"].values():
            del sent["post"]["responses"]["422"]  # FastAPI's own: what receivers refuse is theirs to say
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        for replaced in ("HTTPValidationError", "ValidationError"):
            schemas.pop(replaced, None)
        for model in (Problem, ErrorAnswer):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        for example in (one for part in (a_job, judged, served, policies, webhooks) for one in part.EXAMPLES):
            schemas[type(example).__name__]["examples"] = [example.model_dump(mode="json")]
        operations = list(operations_of(described))
        for path, method, operation in operations:
            _describe_errors(path, method, operation)
            _link(operation, operations)
        app.openapi_schema = described
    return app.openapi_schema


def operations_of(described: dict[str, Any]) -> Iterator[tuple[str, str, Operation]]:
    """Path, method and description of every operation in a document."""
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            yield path, method, operation


def _describe_errors(path: str, method: str, operation: Operation) -> None:
    responses = operation["responses"]
    # FastAPI adds a 422 of its own form to whatever has parameters, also where none can be invalid.
    if "application/json" in responses.get("422", {}).get("content", {}):
        del responses["422"]
        if "requestBody" in operation or any(map(_can_be_invalid, operation["parameters"])):
            responses |= {str(status): response for status, response in documented(InvalidRequest).items()}
    common: list[type[Refusal]] = [ForeignOrigin, ForeignHost]
    if "security" in operation:
        common += [Unauthenticated, MissingScope, TooManyRequests, NotReady, RedisAway]
    if method != "get":
        common += [BodyTooLarge]
    if any(name in path for name in ("{job_id}", "{erasure_id}", "{moderation_id}")):
        common += [ResultExpired, RecordDamaged]
    for status, response in documented(*common).items():
        own = responses.setdefault(str(status), response)
        own["content"][MEDIA_TYPE]["examples"] |= response["content"][MEDIA_TYPE]["examples"]
    if path.startswith(PREFIX):
        _tell_as_openai(responses)
    if "security" in operation:
        for status, response in responses.items():
            if status.startswith("2") or status == "429":
                response.setdefault("headers", {}).update(_QUOTAS)
    operation["responses"] = dict(sorted(responses.items()))


def _can_be_invalid(parameter: dict[str, Any]) -> bool:
    """Whether a text may be sent in a parameter's place that it does not take."""
    schema = parameter["schema"]
    forms = schema.get("anyOf", [schema])
    return any(form["type"] not in ("string", "null") or "maxLength" in form for form in forms)


def _tell_as_openai(responses: dict[str, Any]) -> None:
    """The same errors in OpenAI's shape, each under the status that it leaves with."""
    problems = {status: response for status, response in responses.items() if MEDIA_TYPE in response.get("content", {})}
    for response in problems.values():
        response["content"] = {"application/json": _as_openai(response["content"][MEDIA_TYPE]["examples"])}
    invalid = responses.pop("422")
    responses["400"]["content"]["application/json"]["examples"] |= invalid["content"]["application/json"]["examples"]


def _as_openai(examples: dict[str, Any]) -> dict[str, Any]:
    told = {}
    for example in examples.values():
        problem = Problem.model_validate(example["value"])
        if problem.code == PromptRefused.code:
            continue  # leaves as `moderation_blocked`, which stands under its own status
        value = error_of(problem.status, problem.code, problem.detail)
        told[value.error.code] = {"summary": example["summary"], "value": value.model_dump()}
    return {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}, "examples": told}


def _link(operation: Operation, operations: list[tuple[str, str, Operation]]) -> None:
    """Tell in a successful answer which operations it leads to."""
    named = _NAMED.get(operation["operationId"])
    if named is None:
        return
    links: dict[str, Any] = {}
    for _, _, other in operations:
        taken = [part["name"] for part in other.get("parameters", ()) if part["in"] == "path"]
        if taken and all(name in named or name in _FIRST_OF for name in taken) and set(named) & set(taken):
            parameters = {name: named.get(name, _FIRST_OF.get(name)) for name in taken}
            links[other["operationId"]] = {"operationId": other["operationId"], "parameters": parameters}
    if operation["operationId"] in _PAGES:
        next_page = {"operationId": operation["operationId"], "parameters": {"cursor": "$response.body#/next_cursor"}}
        links["next_page"] = next_page
    for status, response in operation["responses"].items():
        if status.startswith("2"):
            response["links"] = links
