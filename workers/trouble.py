"""How trouble is logged: what and where, never the message of an error, since that could quote a request."""

import logging
import traceback

from redis.exceptions import RedisError

from workers.metrics import WorkerMetrics

log = logging.getLogger(__name__)


def log_redis_error(doing: str, error: RedisError, metrics: WorkerMetrics) -> None:
    """Redis failed and will be tried again."""
    metrics.redis_errors.inc()
    log.warning("Redis failed while %s: %s", doing, type(error).__name__)


def log_error(what: str, error: BaseException) -> None:
    """Something failed that should not have."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s: %s\n%s", what, type(error).__name__, frames)
