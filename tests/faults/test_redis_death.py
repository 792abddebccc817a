"""P4, P5, P6: Redis is killed, frozen or full; nothing acknowledged is lost and everything ends once."""

import time
from contextlib import ExitStack
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from contract.result import Status
from tests.faults.conftest import worker_process
from tests.redis_server import RedisServer
from tests.workers.lifecycle.client import Client, job

OUTAGE_S = 3.0


def test_a_killed_redis_loses_nothing_acknowledged(server: RedisServer, client: Client, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    with ExitStack() as stack:
        impatient = Redis.from_url(server.url, retry=Retry(NoBackoff(), 0), socket_timeout=1)
        stack.callback(impatient.close)
        gateway = Client(impatient)
        for _ in range(2):
            stack.enter_context(worker_process(server, tmp_path))
        refused = 0
        for round_number in range(3):
            for _ in range(15):
                acknowledged.append(gateway.accept(job(steps=20)))
            time.sleep(0.2)
            server.kill()
            try:
                gateway.accept(job())
            except RedisError:
                refused += 1
            time.sleep(OUTAGE_S if round_number == 1 else 0.2)
            server.start()
        assert refused == 3
        assert set(client.wait_for(acknowledged).values()) == {Status.SUCCEEDED}
    client.assert_ended_once(acknowledged)


def test_a_frozen_redis_is_sat_out(server: RedisServer, client: Client, tmp_path: Path) -> None:
    jobs = [client.accept(job(steps=40)) for _ in range(6)]
    with worker_process(server, tmp_path, options=("--step-s", "0.02")) as worker:
        client.wait_until_started(jobs[0])
        server.freeze()
        time.sleep(OUTAGE_S)
        server.thaw()
        assert set(client.wait_for(jobs).values()) == {Status.SUCCEEDED}
        assert worker.process.poll() is None
    client.assert_ended_once(jobs)


def test_a_full_redis_delays_results_and_loses_none(server: RedisServer, client: Client, tmp_path: Path) -> None:
    jobs = [client.accept(job(steps=100)) for _ in range(4)]
    with worker_process(server, tmp_path, options=("--step-s", "0.03", "--lease-s", "30")) as worker:
        for job_id in jobs:
            client.wait_until_started(job_id)
        client.redis.config_set("maxmemory", "1")
        time.sleep(4.5)
        assert {client.status(job_id) for job_id in jobs} == {Status.RUNNING}
        client.redis.config_set("maxmemory", "0")
        assert set(client.wait_for(jobs).values()) == {Status.SUCCEEDED}
        assert worker.process.poll() is None
    client.assert_ended_once(jobs)


def test_a_worker_waits_for_a_redis_that_is_not_there_yet(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = client.accept(job())
    server.kill()
    with worker_process(server, tmp_path):
        time.sleep(2)
        server.start()
        assert client.wait_for([wanted]) == {wanted: Status.SUCCEEDED}
