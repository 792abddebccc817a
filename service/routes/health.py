"""Whether the service lives, whether it can serve, and what it counts."""

import time

from fastapi import APIRouter, Response
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.redis_safety import unsafe_settings
from service.authentication import Administering
from service.gateway import Gateway, Here
from service.metrics import Stock
from service.problems import NotReady, RedisAway, StoreAway, documented
from service.queue import Load

router = APIRouter(tags=["operation"])


class Health(BaseModel):
    """A short answer."""

    status: str


@router.get("/healthz/live", operation_id="live", summary="This process lives")
async def live() -> Health:
    """Asks nobody else: Redis away is no reason to restart the gateway."""
    return Health(status="live")


@router.get(
    "/healthz/ready",
    operation_id="ready",
    summary="Jobs can be accepted and worked on",
    responses=documented(NotReady, RedisAway, StoreAway),
)
async def ready(gateway: Here) -> Health:
    """Redis answers and loses nothing, the store lets us read, and a worker has its model and detectors loaded."""
    async with gateway.silence.noticed_in_turn(), gateway.redis.pipeline(transaction=False) as pipe:
        pipe.info("memory")
        pipe.info("persistence")
        pipe.zcount(keys.READY_WORKERS, f"({time.time()}", "+inf")
        memory, persistence, workers = await pipe.execute()
    if not gateway.settings.allow_unsafe_redis and (faults := unsafe_settings(memory, persistence)):
        raise NotReady(f"{'; '.join(faults)}.", 30)
    if not workers:
        raise NotReady("No worker is ready.", 5)
    await gateway.store_check.passed()
    return Health(status="ready")


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(gateway: Here, caller: Administering) -> Response:
    """Metrics of this process, and of the queue where Redis answers."""
    try:
        stock = await _stock(gateway)
    except RedisError:
        stock = None
    return Response(gateway.metrics.exposition(stock), media_type=gateway.metrics.content_type)


async def _stock(gateway: Gateway) -> Stock:
    loads = await run_in_threadpool(_loads, gateway)
    undelivered, dead = await gateway.deliveries.counts()
    async with gateway.silence.noticed_in_turn(), gateway.redis.pipeline(transaction=False) as pipe:
        pipe.info("memory")
        pipe.info("persistence")
        pipe.zrange(keys.ACCEPTED, 0, 0, withscores=True)
        pipe.zrange(keys.READY_WORKERS, f"({time.time()}", "+inf", byscore=True)
        memory, persistence, oldest, ready = await pipe.execute()
    drifts = [await gateway.drift.report(model) for model in loads]
    return Stock(
        loads=loads,
        shifted={each.model: sum(concept.shifted for concept in each.concepts) for each in drifts},
        ready=[member.rpartition("|")[0] for member in ready],
        oldest_at=oldest[0][1] if oldest else None,
        memory_bytes=memory.get("used_memory", 0),
        memory_limit_bytes=memory.get("maxmemory", 0),
        is_unsafe=bool(unsafe_settings(memory, persistence)),
        undelivered=undelivered,
        dead=dead,
    )


def _loads(gateway: Gateway) -> dict[str, Load]:
    return {model: gateway.queue.load(model) for model in gateway.catalogue.models()}
