"""One tenant's flood is not another's wait. What the gateway accepts is worked off by a real worker."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from contract import keys
from contract.acceptance import Priority, Terms
from contract.model import VariantStatus
from contract.reading import MAX_CHARACTERS
from contract.result import Result, Status
from contract.standing import StandingJob
from service.queue import JobQueue
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import PacedEngine
from tests.workers.lifecycle.test_queue import rq_info
from tests.workers.lifecycle.test_readings import reading

TURNS = keys.turns_key(keys.queue_name("paced"))

FLOOD = 500
STEPS = 16
STEP_S = 0.005
LIST = "rq:queue:seemly-paced"


@pytest.fixture
def queue(server: RedisServer, client: Client) -> Iterator[JobQueue]:
    client.put_on_record(job().policy)
    opened = JobQueue(server.url, timeout_s=5)
    yield opened
    opened.close()


def accept(queue: JobQueue, tenant: str, steps: int = 4, priority: Priority = "normal") -> str:
    accepted = queue.accept(job(tenant=tenant, steps=steps), Terms(queue_limit=10_000, priority=priority))
    return accepted.id


def spans_s(client: Client, ids: list[str]) -> list[tuple[float, float]]:
    """When each job was accepted and when it ended, in epoch seconds; 0 for not yet."""
    records = [client.redis.hmget(keys.job_key(job_id), ["created_at", "finished_at"]) for job_id in ids]
    return [(float(created or 0), float(finished or 0)) for created, finished in records]


def waits_s(client: Client, ids: list[str]) -> list[float]:
    """From acceptance to the end, of each job."""
    return [finished - created for created, finished in spans_s(client, ids)]


def in_list(client: Client) -> list[str]:
    return [job_id.decode() for job_id in client.redis.lrange(LIST, 0, -1)]


def test_five_jobs_beside_five_hundred_wait_at_most_twice_as_long_as_alone(
    server: RedisServer, client: Client, queue: JobQueue, tmp_path: Path
) -> None:
    with working(server, tmp_path, PacedEngine(STEP_S), slots=1):
        alone = [accept(queue, "small", STEPS) for _ in range(5)]
        client.wait_for(alone)
        idle_s = waits_s(client, alone)
        flood = [accept(queue, "large", STEPS) for _ in range(FLOOD)]
        waiting = len(in_list(client))
        before = client.redis.lindex(LIST, 0) or b""
        client.wait_until_started(before.decode())
        time.sleep(STEPS * STEP_S / 2)  # one comes in the middle of another's job, on average
        beside = [accept(queue, "small", STEPS) for _ in range(5)]
        client.wait_for(beside)
        busy_s = waits_s(client, beside)
        began, ended = min(spans_s(client, beside))[0], max(end for _, end in spans_s(client, beside))
        between = sum(began < end <= ended for _, end in spans_s(client, flood))
        still_waiting = len(in_list(client))
        with working(server, tmp_path, PacedEngine(STEP_S)):  # of many slots, to be done with it
            statuses = client.wait_for([*alone, *flood, *beside])
    print(f"alone {idle_s}, beside {waiting} waiting jobs {busy_s}; {still_waiting} waited on")  # noqa: T201
    assert waiting > FLOOD / 2
    assert still_waiting > FLOOD / 4
    # All jobs are of one size, so the wait at most doubles when at most as many of the others' run meanwhile; seconds
    # are printed, but a busy machine bends their ratio.
    assert between <= len(beside)
    assert set(statuses.values()) == {Status.SUCCEEDED}
    client.assert_ended_once([*flood, *beside])
    assert client.redis.zcard(keys.ACCEPTED) == 0
    assert not client.redis.exists(keys.in_flight_key("small"), keys.in_flight_key("large"), TURNS)


def test_tenants_take_turns_by_the_work_they_ask_for(client: Client, queue: JobQueue) -> None:
    large = [accept(queue, "large", steps=8) for _ in range(3)]
    small = [accept(queue, "small", steps=4) for _ in range(5)]
    assert in_list(client) == [small[0], large[0], *small[1:3], large[1], *small[3:], large[2]]
    late = accept(queue, "late")
    assert in_list(client).index(late) <= 1


def test_texts_that_are_scored_take_turns_with_pictures(client: Client, queue: JobQueue) -> None:
    for _ in range(50):
        texts = {"tenant": "large", "texts": ("0" * 64,), "characters": MAX_CHARACTERS}
        queue.accept(reading(**texts), Terms(queue_limit=10_000))
    pictures = [accept(queue, "small") for _ in range(3)]
    assert max(map(in_list(client).index, pictures)) <= 3


def test_priorities_order_a_tenants_own_jobs_and_take_nothing_from_others(client: Client, queue: JobQueue) -> None:
    own = [accept(queue, "one") for _ in range(3)]
    others = [accept(queue, "two") for _ in range(3)]
    places = [index for index, job_id in enumerate(in_list(client)) if job_id in others]
    low = accept(queue, "one", priority="low")
    high = [accept(queue, "one", priority="high") for _ in range(2)]
    normal = accept(queue, "one")
    listed = in_list(client)
    assert [job_id for job_id in listed if job_id not in others] == [*high, *own, normal, low]
    assert [job_id for job_id in listed if job_id in others] == others
    assert [index for index, job_id in enumerate(listed) if job_id in others] == places
    turns = [client.redis.zscore(TURNS, job_id) for job_id in listed]
    assert turns == sorted(turns)  # type: ignore[type-var]
    assert len(set(listed)) == 10


def test_a_turn_that_was_not_used_costs_nothing(client: Client, queue: JobQueue) -> None:
    for _ in range(20):
        accept(queue, "patient")
    canceled = Result(status=Status.CANCELED)
    for _ in range(20):
        wanted = job(tenant="hasty")
        queue.accept(wanted, Terms(queue_limit=100))
        assert queue.cancel(wanted, canceled, 60) == "queued"
    last = accept(queue, "hasty")
    assert in_list(client).index(last) == 0
    assert len(in_list(client)) == client.redis.zcard(TURNS) == 21


def test_the_position_that_is_told_is_the_place_in_the_list(client: Client, queue: JobQueue) -> None:
    for _ in range(10):
        accept(queue, "large")
    wanted = job(tenant="small")
    position = queue.accept(wanted, Terms(queue_limit=100, service_s=2.0, in_flight=4)).position
    [(kind, told)] = client.events(wanted.id)
    assert kind == "queued"
    assert told == {"position": position, "eta_s": 2.0 + (position - 1) * 2.0 / 4}
    assert in_list(client)[position - 1] == wanted.id


def test_rq_info_counts_every_job_that_waits(server: RedisServer, client: Client, queue: JobQueue) -> None:
    for tenant in ("one", "two", "three"):
        for _ in range(4):
            accept(queue, tenant)
    assert "queue seemly-paced 12" in rq_info(server)


def test_jobs_that_fell_out_of_the_list_come_back_to_its_front(
    server: RedisServer, client: Client, queue: JobQueue, tmp_path: Path
) -> None:
    lost = [accept(queue, "small") for _ in range(3)]
    flood = [accept(queue, "large", steps=STEPS) for _ in range(60)]
    for job_id in lost:
        client.redis.lrem(LIST, 1, job_id)
    with working(server, tmp_path, PacedEngine(step_s=0.02), slots=1):
        client.wait_for(lost)
        assert sum(client.status(job_id).is_terminal for job_id in flood) < 40
        time.sleep(0.1)
        for job_id in flood:
            client.cancel(job_id)
        client.wait_for(flood)
    client.assert_ended_once(lost)


def test_what_takes_nothing_of_the_engine_goes_before_all_others_and_costs_no_turn(
    client: Client, queue: JobQueue
) -> None:
    flood = [accept(queue, "large") for _ in range(3)]
    fields = {"tenant": "small", "created_at": datetime.now(UTC), "deadline_at": None, "model": "paced", "name": "x"}
    moves = [StandingJob(id=uuid4().hex, status=VariantStatus.RETIRED, reason="old", **fields) for _ in range(2)]
    assert [queue.accept(move, Terms(queue_limit=100)).position for move in moves] == [1, 2]
    small = accept(queue, "small")
    assert in_list(client) == [*(move.id for move in moves), small, *flood]  # the newcomer first, of equal turns
    assert client.redis.zcard(TURNS) == 4
