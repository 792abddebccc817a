"""P1: whatever becomes of RQ's side of a job, an accepted one reaches a terminal state."""

from pathlib import Path

import pytest
from rq.job import Job as RqJob

from contract import keys
from contract.job import MAX_ATTEMPTS
from contract.result import Status
from tests.faults.conftest import worker_process
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job

QUEUE = "rq:queue:seemly-paced"


def test_a_job_that_vanished_from_the_queue_is_found(server: RedisServer, client: Client, tmp_path: Path) -> None:
    with_hash, without_hash = client.accept(job()), client.accept(job())
    client.redis.delete(QUEUE, RqJob.key_for(without_hash))
    with worker_process(server, tmp_path):
        assert set(client.wait_for([with_hash, without_hash]).values()) == {Status.SUCCEEDED}
    client.assert_ended_once([with_hash, without_hash])


def test_a_popped_job_whose_hash_vanished_is_found(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = client.accept(job())
    client.redis.delete(RqJob.key_for(wanted))
    with worker_process(server, tmp_path):
        assert client.wait_for([wanted]) == {wanted: Status.SUCCEEDED}
    client.assert_ended_once([wanted])


@pytest.mark.parametrize("rq_status", ["failed", "canceled", "finished", "stopped"])
def test_a_job_that_rq_thinks_is_over_is_found(
    server: RedisServer, client: Client, tmp_path: Path, rq_status: str
) -> None:
    wanted = client.accept(job())
    client.redis.delete(QUEUE)
    client.redis.hset(RqJob.key_for(wanted), "status", rq_status)
    if rq_status == "failed":
        client.redis.zadd("rq:failed:seemly-paced", {wanted: 2e9})
    with worker_process(server, tmp_path):
        assert client.wait_for([wanted]) == {wanted: Status.SUCCEEDED}
    assert client.redis.zcard("rq:failed:seemly-paced") == 0


def test_a_job_lost_too_often_ends_as_lost(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = client.accept(job())
    client.redis.delete(QUEUE)
    client.redis.hset(keys.job_key(wanted), mapping={"status": "running", "attempt": MAX_ATTEMPTS})
    with worker_process(server, tmp_path):
        assert client.wait_for([wanted]) == {wanted: Status.FAILED}
    error = client.result(wanted).error
    assert error is not None
    assert error.code == "lost"
    client.assert_ended_once([wanted])


def test_a_waiting_job_expires_while_every_slot_is_taken(server: RedisServer, client: Client, tmp_path: Path) -> None:
    long, waiting = client.accept(job(steps=150)), client.accept(job(deadline_s=0.5))
    with worker_process(server, tmp_path, options=("--slots", "1", "--step-s", "0.4")):
        assert client.wait_for([waiting]) == {waiting: Status.EXPIRED}
        assert client.status(long) is Status.RUNNING
    client.assert_ended_once([waiting])


def test_jobs_of_another_model_are_left_alone(server: RedisServer, client: Client, tmp_path: Path) -> None:
    others = client.accept(job(model="another"))
    with worker_process(server, tmp_path):
        client.wait_for([client.accept(job(steps=150))])
        client.wait_for([client.accept(job(steps=150))])
    assert client.status(others) is Status.QUEUED
    assert client.redis.lrange("rq:queue:seemly-another", 0, -1) == [others.encode()]


def test_a_deleted_record_leaves_no_trace_among_the_accepted(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    wanted = client.accept(job())
    client.redis.delete(keys.job_key(wanted))
    with worker_process(server, tmp_path):
        client.wait_for([client.accept(job(steps=150))])
        client.wait_for([client.accept(job(steps=150))])
    assert client.redis.zcard(keys.ACCEPTED) == 0
