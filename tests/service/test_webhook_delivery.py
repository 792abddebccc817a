"""Delivery of webhooks: nothing gets lost between a job's end and a receiver's 2xx, whatever is killed or damaged."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest
from redis import Redis
from standardwebhooks.webhooks import WebhookVerificationError

from contract import keys
from contract.acceptance import Terms
from contract.outbox import DeliveryState
from contract.result import Status
from contract.verdict import Verdict
from service.queue import JobQueue
from service.webhooks.signing import SecretRing
from tests.redis_server import RedisServer, running_redis
from tests.seemly.processes import eventually
from tests.service import parts
from tests.service.receiver import Receiver, accept, receiving

PEPPER = "a pepper that is long enough for tests"
PROMPT = "a midnight harbour that nobody is told of"
JOBS = iter(range(1, 1 << 30))


@pytest.fixture
def ring(redis: "Redis") -> SecretRing:
    return SecretRing(redis, PEPPER, Path("nowhere"))


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[JobQueue]:
    queue = JobQueue(redis_server.url, 20)
    yield queue
    queue.close()


def ended(
    redis: "Redis", queue: JobQueue, url: str, tenant: str = "local", *verdicts: Verdict, status: Status | None = None
) -> str:
    """The id of the message about a job that came to these verdicts, or to one passed picture."""
    verdicts = verdicts or (Verdict.PASSED,)
    job = parts.some_job(
        id=f"{next(JOBS):032x}", tenant=tenant, created_at=datetime.now(UTC), prompt=PROMPT, seeds=(41,) * len(verdicts)
    )
    queue.accept(job, Terms(queue_limit=1000, webhook_url=url))
    attempt, _ = parts.take(redis, job.id)
    pictures = [parts.picture(job, index, verdict) for index, verdict in enumerate(verdicts)]
    parts.commit(redis, job.id, attempt, parts.result(job, status or Status.SUCCEEDED, *pictures))
    return f"msg_{job.id}"


def state(redis: "Redis", message_id: str) -> str | None:
    return redis.hget(keys.delivery_key(message_id), "state")  # type: ignore[return-value]


def are(redis: "Redis", wanted: DeliveryState, *message_ids: str) -> Callable[[], bool]:
    return lambda: all(state(redis, message_id) == wanted for message_id in message_ids)


@contextmanager
def delivering(redis_url: str, **settings: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A delivery process, as it is run in earnest, but impatient."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("SEEMLY_")},
        "REDIS_URL": redis_url,
        "SEEMLY_PEPPER": PEPPER,
        "SEEMLY_WEBHOOK_NETWORKS": "127.0.0.0/8",
        "SEEMLY_WEBHOOK_PAUSES_S": ",".join(["0.05"] * 12),
        **{f"SEEMLY_{name.upper()}": value for name, value in settings.items()},
    }
    process = subprocess.Popen([sys.executable, "-m", "service.webhooks.main"], env=environment)
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answering(status: int, **headers: str) -> Callable[[Receiver, BaseHTTPRequestHandler], None]:
    def answer(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()

    return answer


def test_a_hundred_messages_arrive_at_a_receiver_that_fails_half_the_time(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    old, _ = ring.create("local")
    new, _ = ring.rotate("local", timedelta(hours=1))

    def fail_half_the_time(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        match len(receiver.received) % 4:  # each time it has the message already, so that it comes again
            case 0:
                answering(500)(receiver, request)
            case 2:
                request.connection.close()  # no answer at all
            case _:
                accept(receiver, request)

    with receiving(fail_half_the_time) as receiver:
        sent = [ended(redis, queue, receiver.url) for _ in range(100)]
        with delivering(redis_server.url):
            assert eventually(are(redis, DeliveryState.DELIVERED, *sent), 60)
    assert len(receiver.received) >= 190  # duplicates, told by their ids
    assert {one.id for one in receiver.received} == set(sent)
    for one in receiver.received:
        assert one.verified(new) == one.verified(old) == json.loads(one.body)
        with pytest.raises(WebhookVerificationError):
            one.verified("whsec_" + "A" * 44)
    assert len({(one.id, one.body) for one in receiver.received}) == 100  # the same at every attempt
    assert redis.smembers(keys.DELIVERING_TENANTS) <= {"local"}
    assert redis.zcard(keys.due_deliveries_key("local")) == 0


def test_processes_share_the_work_and_send_nothing_twice(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    for tenant in ("local", "other"):
        ring.create(tenant)
    with receiving() as receiver, delivering(redis_server.url), delivering(redis_server.url):
        sent = [ended(redis, queue, receiver.url, tenant) for _ in range(30) for tenant in ("local", "other")]
        assert eventually(are(redis, DeliveryState.DELIVERED, *sent))
        assert sorted(one.id for one in receiver.received) == sorted(sent)
        assert eventually(lambda: redis.exists(keys.DELIVERING_TENANTS) == 0)


def test_a_killed_process_loses_nothing(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    whsec, _ = ring.create("local")
    is_hanging = True

    def hang(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
        if is_hanging:
            time.sleep(1)
        accept(receiver, request)

    impatient = {"webhook_lease_s": "1.2", "webhook_timeout_s": "1"}
    with receiving(hang) as receiver:
        sent = [ended(redis, queue, receiver.url) for _ in range(5)]
        with delivering(redis_server.url, **impatient) as process:
            assert eventually(lambda: len(receiver.received) == 5)
            process.kill()
            process.wait()
        assert are(redis, DeliveryState.PENDING, *sent)()
        is_hanging = False
        with delivering(redis_server.url, **impatient):
            assert eventually(are(redis, DeliveryState.DELIVERED, *sent))
    for message_id in sent:
        assert receiver.times(message_id) == 2
    assert all(one.verified(whsec)["type"] == "job.succeeded" for one in receiver.received)


def test_a_process_that_is_asked_to_end_finishes_what_it_sends(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    ring.create("local")
    with receiving(lambda receiver, request: (time.sleep(0.5), accept(receiver, request))[1]) as receiver:
        sent = ended(redis, queue, receiver.url)
        with delivering(redis_server.url) as process:
            assert eventually(lambda: len(receiver.received) == 1)
            process.terminate()
            assert process.wait(20) == 0
        assert state(redis, sent) == "delivered"


def test_receivers_say_when_to_stop_and_when_to_come_back(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    ring.create("local")
    with (
        receiving(answering(410)) as gone,
        receiving(answering(404)) as failing,
        receiving(answering(503, Retry_After="1")) as busy,
        delivering(redis_server.url, webhook_pauses_s="0.01,0.02", webhook_metrics_port=str(port := free_port())),
    ):
        stopped, dead, late = (ended(redis, queue, receiver.url) for receiver in (gone, failing, busy))
        assert eventually(are(redis, DeliveryState.DEAD, dead, late))
        assert (state(redis, stopped), gone.times(stopped)) == ("gone", 1)
        assert (failing.times(dead), busy.times(late)) == (3, 3)
        told = redis.hgetall(keys.delivery_key(late))
        assert float(told["last_at"]) - float(told["first_at"]) >= 2
        assert (told["attempts"], told["last_status"], told["last_error"]) == ("3", "503", "answered 503")
        assert set(redis.zrange(keys.DEAD_DELIVERIES, 0, -1)) == {dead, late}
        told_of = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        for counted in ('{state="gone"} 1.0', '{state="dead"} 2.0', '{state="pending"} 4.0'):
            assert f"seemly_webhook_attempts_total{counted}" in told_of
        for message_id in (stopped, dead, late):
            assert redis.ttl(keys.delivery_key(message_id)) > 6 * 86_400


def test_a_damaged_delivery_stops_no_other(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    ring.create("local")
    with receiving() as receiver:
        unreadable, no_hash, nobodys, sent = (ended(redis, queue, receiver.url) for _ in range(4))
        redis.hset(keys.delivery_key(unreadable), "images", "[{")
        redis.set(keys.delivery_key(no_hash), "what?")
        redis.hdel(keys.delivery_key(nobodys), "tenant")
        with delivering(redis_server.url, webhook_pauses_s="0.01"):
            assert eventually(are(redis, DeliveryState.DELIVERED, sent))
            assert eventually(are(redis, DeliveryState.DEAD, unreadable))
    assert [one.id for one in receiver.received] == [sent]


def test_a_killed_redis_loses_no_message(ring: SecretRing, tmp_path: Path) -> None:
    with running_redis(tmp_path) as server, receiving(answering(500)) as failing, receiving() as receiver:
        with parts.client(server.url) as redis:
            SecretRing(redis, PEPPER, Path()).create("local")
            queue = JobQueue(server.url, 20)
            waiting, sent = ended(redis, queue, failing.url), ended(redis, queue, receiver.url)
            queue.close()
        with delivering(server.url, webhook_pauses_s="0.2," * 9 + "60"):
            assert eventually(lambda: failing.times(waiting) >= 2)
            server.kill()
            time.sleep(0.5)
            server.start()
            with parts.client(server.url) as redis:
                assert eventually(are(redis, DeliveryState.DELIVERED, sent))
                before = failing.times(waiting)
                assert eventually(lambda: failing.times(waiting) > before)
                assert state(redis, waiting) == "pending"


def test_a_receiver_that_hangs_holds_up_its_own_tenant_only(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue
) -> None:
    for tenant in ("local", "slow"):
        ring.create(tenant)
    with receiving(lambda *_: time.sleep(3)) as hanging, receiving() as receiver:
        for _ in range(30):
            ended(redis, queue, hanging.url, "slow")
        limits = {"webhook_slots": "4", "webhook_slots_of_one": "3", "webhook_timeout_s": "3"}
        with delivering(redis_server.url, **limits):
            assert eventually(lambda: len(hanging.received) == 3)
            begun = time.monotonic()
            sent = [ended(redis, queue, receiver.url) for _ in range(10)]
            assert eventually(are(redis, DeliveryState.DELIVERED, *sent))
            assert time.monotonic() - begun < 2.5
            assert len(hanging.received) == 3


def test_without_the_pepper_nothing_is_sent_unsigned(
    redis: "Redis", redis_server: RedisServer, ring: SecretRing, queue: JobQueue, tmp_path: Path
) -> None:
    ring.create("local")
    with receiving() as receiver:
        sent = ended(redis, queue, receiver.url)
        with delivering(redis_server.url, pepper="", data=str(tmp_path), webhook_pauses_s="0.01"):
            assert eventually(are(redis, DeliveryState.DEAD, sent))
        assert "pepper is missing" in str(redis.hget(keys.delivery_key(sent), "last_error"))
        assert receiver.received == []
