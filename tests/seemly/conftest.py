"""A real gateway over a real Redis, as the gateway's own tests run it."""

from tests.service.conftest import gateway, redis, redis_server

__all__ = ["gateway", "redis", "redis_server"]
