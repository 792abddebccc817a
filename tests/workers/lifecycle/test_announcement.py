"""What workers announce."""

import threading

import pytest
from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.model import ModelInfo, VariantInfo, VariantStatus
from tests.redis_server import RedisServer
from tests.workers.lifecycle.paced_engine import INFO
from workers.announce import Announcement


class Shelf:
    """One variant."""

    status = VariantStatus.AVAILABLE

    def listed(self) -> tuple[VariantInfo, ...]:
        return (
            VariantInfo(
                name="knives", recipe="uce", concepts=(), changes="kv_only", weights_sha256="0" * 64, status=self.status
            ),
        )

    def refused(self) -> dict[str, str]:
        return {}


class ReadSlowly(Shelf):
    """Of which another thread tells while it is read for the first time."""

    def __init__(self) -> None:
        self.is_read, self.is_told = threading.Event(), threading.Event()

    def refused(self) -> dict[str, str]:
        self.is_read.set()
        self.is_told.wait(0.3)  # in vain: who tells next waits for us
        return {}


def statuses(redis: Redis) -> list[VariantStatus]:
    told = ModelInfo.model_validate_json(redis.hget(keys.MODELS, INFO.name) or b"")
    return [variant.status for variant in told.variants]


def test_a_change_that_redis_did_not_take_is_told_again(server: RedisServer) -> None:
    shelf = Shelf()
    with Redis.from_url(server.url) as redis, Redis.from_url("unix:///nowhere") as gone:
        announcement = Announcement(redis, INFO, b"{}", "a-worker", 10, shelf)
        announcement.publish()
        shelf.status = VariantStatus.RETIRED
        announcement.connection = gone
        with pytest.raises(RedisError):
            announcement.renew()
        announcement.connection = redis
        announcement.renew()
        assert statuses(redis) == [VariantStatus.RETIRED]


def test_what_two_threads_tell_at_once_ends_with_the_newest(server: RedisServer) -> None:
    shelf = ReadSlowly()
    with Redis.from_url(server.url) as redis:
        announcement = Announcement(redis, INFO, b"{}", "a-worker", 10, shelf)
        keeper = threading.Thread(target=announcement.publish)
        keeper.start()
        assert shelf.is_read.wait(10)
        shelf.status = VariantStatus.RETIRED
        announcement.renew()
        shelf.is_told.set()
        keeper.join()
        assert statuses(redis) == [VariantStatus.RETIRED]
