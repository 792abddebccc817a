"""The gateway's app: its layers, its routes, its OpenAPI description."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.body_limit import BodyLimit
from service.compatible.errors import OpenAIErrors
from service.description import describe
from service.error_handlers import add_error_handlers
from service.gateway import Gateway
from service.heads import Heads
from service.loopback import LoopbackOnly
from service.observing import Observing
from service.routes import (
    catalogue,
    compare,
    contact_sheet,
    drift,
    erasures,
    explanation,
    generate,
    health,
    images,
    jobs,
    moderate,
    moderations,
    policies,
    provenance,
    reviews,
    variants,
    webhooks,
)
from service.settings import Settings

ROUTES = (
    *(generate, compare, jobs, contact_sheet, explanation, moderate, drift),
    *(images, moderations, provenance, reviews, catalogue, variants, erasures, policies, webhooks, health),
)
DESCRIPTION = """
Pictures from text, kept decent, with a verdict on every picture.

`POST /generate` accepts a request and answers with a job; the job's address tells what became of it. A picture's bytes
can be read only once it has passed. `POST /compare` puts several safety plans beside each other, as one job. Every
error is an RFC 9457 problem; below `/v1` it has OpenAI's shape. What answers GET answers HEAD, with the same headers.
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
        webhooks=webhooks.messages,
        # FastAPI's own telemetry can carry request bodies to wherever a provider in the process sends them.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.gateway = gateway
    add_error_handlers(app)
    for routes in ROUTES:
        app.include_router(routes.router)
    app.include_router(reviews.appeals)
    larger = dict.fromkeys(("/moderate", "/v1/moderations", "/v1/provenance/verify"), settings.max_upload_bytes)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes, larger=larger)
    app.add_middleware(LoopbackOnly, callers=gateway.callers)
    app.add_middleware(
        Observing, metrics=gateway.metrics, tracing=gateway.tracing, follow_parents=settings.trace_parents
    )
    app.add_middleware(OpenAIErrors)
    app.add_middleware(Heads)  # added last: outermost
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app
