"""The gateway's app: its layers, its routes, its OpenAPI description."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.body_limit import BodyLimit
from service.compatible.errors import PREFIX, ErrorAnswer, OpenAIErrors
from service.error_handlers import add_error_handlers
from service.gateway import Gateway
from service.loopback import LoopbackOnly
from service.observing import Observing
from service.problems import Problem, documented
from service.routes import catalogue, compare, contact_sheet, explanation, generate, health, images, jobs
from service.settings import Settings

DESCRIPTION = """
Pictures from text, kept decent, with a verdict on every picture.

`POST /generate` accepts a request and answers with a job; the job's address tells what became of it. A picture's bytes
can be read only once it has passed. `POST /compare` puts several safety plans beside each other, as one job. Every
error is an RFC 9457 problem.
"""


def create_app(settings: Settings) -> FastAPI:
    """Build the app. Nothing connects until the first request."""
    gateway = Gateway.from_settings(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await gateway.close()

    app = FastAPI(
        title="Seemly",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        redoc_url=None,
        # FastAPI's own telemetry can carry request bodies to wherever a provider in the process sends them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = gateway
    add_error_handlers(app)
    for routes in (generate, compare, jobs, contact_sheet, explanation, images, catalogue, health):
        app.include_router(routes.router)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(LoopbackOnly, callers=gateway.callers)
    app.add_middleware(Observing, metrics=gateway.metrics)
    app.add_middleware(OpenAIErrors)  # added last: outermost
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with our problems in the place of its own errors."""
    if app.openapi_schema is None:
        described = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for path, operations in described["paths"].items():
            for operation in operations.values():
                # FastAPI adds a 422 of its own form to whatever has parameters, also where none can be invalid.
                if "application/json" in operation["responses"].get("422", {}).get("content", {}):
                    del operation["responses"]["422"]
                common: tuple[int, ...] = (401, 403, 421, 429, 503) if "security" in operation else (403, 421)
                if "{job_id}" in path:
                    common += (410,)
                for status, response in documented(*common).items():
                    operation["responses"].setdefault(str(status), response)
                if path.startswith(PREFIX):
                    _tell_errors_as_openai(operation["responses"])
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        for replaced in ("HTTPValidationError", "ValidationError"):
            schemas.pop(replaced, None)
        for model in (Problem, ErrorAnswer):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
            schemas.update(schema.pop("$defs", {}))
            schemas[model.__name__] = schema
        app.openapi_schema = described
    return app.openapi_schema


def _tell_errors_as_openai(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status.startswith(("4", "5")):
            response["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
