"""What the gateway is measured against: FastAPI with nothing around it, and one call of what lies behind.

POST /enqueue         RQ's enqueue, once
GET  /jobs/{job_id}   HGETALL of the job's record, once
"""

import os
from typing import Any

import uvicorn
from fastapi import FastAPI
from redis import Redis
from redis import asyncio as aioredis
from rq import Queue
from rq.serializers import JSONSerializer

from contract import keys

QUEUE = "bare"


def create_app(redis_url: str) -> FastAPI:
    """Both endpoints, on the Redis that the gateway has as well."""
    app = FastAPI()
    queue = Queue(QUEUE, connection=Redis.from_url(redis_url), serializer=JSONSerializer)
    redis = aioredis.Redis.from_url(redis_url, decode_responses=True)

    @app.post("/enqueue", status_code=202)
    def enqueue(body: dict[str, Any]) -> dict[str, str]:
        return {"id": queue.enqueue("generate", body).id}

    @app.get("/jobs/{job_id}")
    async def read(job_id: str) -> dict[str, str]:
        found: Any = await redis.hgetall(keys.job_key(job_id))
        return dict(found)

    return app


if __name__ == "__main__":
    uvicorn.run(
        create_app(os.environ["REDIS_URL"]),
        port=int(os.environ["PORT"]),
        loop="uvloop",
        http="httptools",
        log_level="warning",
        access_log=False,
    )
