"""Whether the service lives, whether it can serve, and what it counts."""

import time
from collections.abc import Sequence

from fastapi import APIRouter, Response
from pydantic import BaseModel
from redis.exceptions import RedisError
from starlette.concurrency import run_in_threadpool

from contract import keys
from contract.redis_safety import unsafe_settings
from service.authentication import Administering
from service.gateway import Gateway, Here
from service.metrics import Stock
from service.problem_json import documented
from service.problems import NotReady, RedisAway, StoreAway
from service.queue import Load

LOOKED_AT = 500  # of the oldest unfinished jobs

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
    since = time.time() - gateway.settings.withheld_keep_s
    async with gateway.silence.noticed_in_turn(), gateway.redis.pipeline(transaction=False) as pipe:
        pipe.info("memory")
        pipe.info("persistence")
        pipe.zrange(keys.ACCEPTED, 0, LOOKED_AT - 1, withscores=True)
        pipe.zrange(keys.READY_WORKERS, f"({time.time()}", "+inf", byscore=True)
        pipe.zcount(keys.PENDING_REVIEWS, since, "+inf")
        pipe.zrange(keys.PENDING_REVIEWS, since, "+inf", byscore=True, offset=0, num=1, withscores=True)
        memory, persistence, accepted, ready, reviews, first_review = await pipe.execute()
    drifts = [await gateway.drift.report(model) for model in loads]
    return Stock(
        loads=loads,
        shifted={each.model: sum(concept.shifted for concept in each.concepts) for each in drifts},
        ready=[member.rpartition("|")[0] for member in ready],
        oldest_at=await _oldest(gateway, accepted),
        memory_bytes=memory.get("used_memory", 0),
        memory_limit_bytes=memory.get("maxmemory", 0),
        is_unsafe=bool(unsafe_settings(memory, persistence)),
        reviews=reviews,
        oldest_review_at=first_review[0][1] if first_review else None,
        undelivered=undelivered,
        dead=dead,
    )


async def _oldest(gateway: Gateway, accepted: Sequence[tuple[str, float]]) -> dict[str, float]:
    """When the first of these jobs, oldest first, of each kind was accepted."""
    async with gateway.silence.noticed_in_turn(), gateway.redis.pipeline(transaction=False) as pipe:
        for job_id, _ in accepted:
            pipe.hget(keys.job_key(job_id), "kind")
        kinds = await pipe.execute()
    return {kind or "": at for kind, (_, at) in reversed(list(zip(kinds, accepted, strict=True)))}


def _loads(gateway: Gateway) -> dict[str, Load]:
    return {model: gateway.queue.load(model) for model in gateway.catalogue.models()}
