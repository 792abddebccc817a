"""P1: a worker is killed anywhere on a job's way, and the job ends once. P9: a job that kills is set aside."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract import keys
from contract.job import MAX_ATTEMPTS, Job
from contract.result import Status
from tests.faults.conftest import files_of, stored_files, worker_process
from tests.faults.worker_process import POINTS
from tests.redis_server import RedisServer, running_redis
from tests.workers.lifecycle.client import Client, job
from workers.records import connect
from workers.rq_disarmed import disarm_rq

RECOVERY_S = 1 + 30  # the promise: the lease and half a minute


class Killed:
    """Jobs whose worker was killed at a point, after another worker was there for a while."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.jobs: dict[str, tuple[Job, Job]] = {}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """At every point, all at once: a worker stands there with a job while another job waits; kill -9; a new worker."""
    folder = tmp_path_factory.mktemp("death")
    disarm_rq()
    with running_redis(folder) as server, ExitStack() as processes:
        client = Client(connect(server.url))
        scene = Killed(client, folder)
        standing = {
            point: processes.enter_context(
                worker_process(server, folder / point, point, ("--stand-at", point, "--slots", "1"))
            )
            for point in POINTS
        }
        for point in POINTS:
            scene.jobs[point] = (job(model=point, pictures=2), job(model=point))
            for wanted in scene.jobs[point]:
                client.accept(wanted)
        for worker in standing.values():
            worker.wait_until_standing()
        for worker in standing.values():
            worker.kill()
        for point in POINTS:
            processes.enter_context(worker_process(server, folder / point, point))
        client.wait_for([wanted.id for pair in scene.jobs.values() for wanted in pair])
        time.sleep(1)  # time to end one a second time
        yield scene
        client.redis.close()


@pytest.mark.timeout(300)  # the first waits for 18 workers to start
@pytest.mark.parametrize("point", POINTS)
def test_a_job_whose_worker_was_killed_ends_once(killed: Killed, point: str) -> None:
    client, pair = killed.client, killed.jobs[point]
    assert [client.status(wanted.id) for wanted in pair] == [Status.SUCCEEDED] * 2
    client.assert_ended_once(wanted.id for wanted in pair)
    assert client.attempt(pair[0].id) <= 2
    assert stored_files(killed.folder / point) == files_of(client, pair[0]) | files_of(client, pair[1])


def test_recovery_takes_no_longer_than_promised(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = job()
    with worker_process(server, tmp_path, options=("--stand-at", "running")) as first:
        client.accept(wanted)
        first.wait_until_standing()
        with worker_process(server, tmp_path):
            while client.redis.zcard(keys.READY_WORKERS) < 2:
                time.sleep(0.02)
            first.kill()
            killed_at = time.monotonic()
            client.wait_for([wanted.id])
            assert time.monotonic() - killed_at < RECOVERY_S
    client.assert_ended_once([wanted.id])


@pytest.mark.parametrize("point", ["running", "committing"])
def test_a_worker_frozen_past_its_lease_commits_nothing_when_it_thaws(
    server: RedisServer, client: Client, tmp_path: Path, point: str
) -> None:
    wanted = job(pictures=2)
    with worker_process(server, tmp_path, options=("--stand-at", point)) as first:
        client.accept(wanted)
        first.wait_until_standing()
        first.send(signal.SIGSTOP)
        with worker_process(server, tmp_path):
            assert client.wait_for([wanted.id]) == {wanted.id: Status.SUCCEEDED}
            result = client.result(wanted.id)
            first.send(signal.SIGCONT)
            first.go_on()
            time.sleep(0.5)
            first.send(signal.SIGTERM)
            first.go_on()  # it may stand there again
            assert first.wait() == 0
    assert client.attempt(wanted.id) == 2
    assert client.result(wanted.id) == result
    client.assert_ended_once([wanted.id])
    assert stored_files(tmp_path) == files_of(client, wanted)


def test_a_late_attempt_commits_nothing_and_leaves_no_file_while_the_next_one_runs(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    wanted = job(pictures=2)
    with worker_process(server, tmp_path, options=("--stand-at", "committing")) as first:
        client.accept(wanted)
        first.wait_until_standing()
        assert len(stored_files(tmp_path)) == 2
        first.send(signal.SIGSTOP)
        with worker_process(server, tmp_path, options=("--stand-at", "running")) as second:
            second.wait_until_standing()
            first.send(signal.SIGCONT)
            first.go_on()
            give_up_at = time.monotonic() + 30
            while stored_files(tmp_path) and client.status(wanted.id) is Status.RUNNING:
                assert time.monotonic() < give_up_at
                time.sleep(0.02)
            assert stored_files(tmp_path) == set()
            first.kill()  # before it takes another job
            assert client.status(wanted.id) is Status.RUNNING
            second.go_on()
            assert client.wait_for([wanted.id]) == {wanted.id: Status.SUCCEEDED}
    assert client.attempt(wanted.id) == 2
    client.assert_ended_once([wanted.id])
    assert stored_files(tmp_path) == files_of(client, wanted)


def test_a_job_that_kills_its_worker_is_set_aside_and_its_neighbours_finish(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    poison = job("kills")
    neighbours = [job(steps=30) for _ in range(5)]
    for wanted in (poison, *neighbours):
        client.accept(wanted)
    starts = _supervised(server, client, tmp_path, [poison, *neighbours])
    assert starts == MAX_ATTEMPTS + 1
    error = client.result(poison.id).error
    assert error is not None
    assert error.code == "poison_job"
    assert {client.status(wanted.id) for wanted in neighbours} == {Status.SUCCEEDED}
    client.assert_ended_once(wanted.id for wanted in (poison, *neighbours))


def test_a_worker_whose_engine_fails_ends_and_gives_its_jobs_back_at_once(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    poison, neighbour = job("raises"), job(steps=30)
    for wanted in (poison, neighbour):
        client.accept(wanted)
    with worker_process(server, tmp_path, options=("--lease-s", "60")) as first:
        assert first.wait() == 70
    assert client.redis.lrange("rq:queue:seemly-paced", 0, -1) == [poison.id.encode(), neighbour.id.encode()]
    starts = _supervised(server, client, tmp_path, [poison, neighbour])
    assert starts == MAX_ATTEMPTS
    error = client.result(poison.id).error
    assert error is not None
    assert error.code == "poison_job"
    assert client.status(neighbour.id) is Status.SUCCEEDED


def _supervised(server: RedisServer, client: Client, folder: Path, jobs: list[Job]) -> int:
    """Start a worker again whenever it ends, until all jobs have. How many starts it took."""
    for starts in range(1, 10):
        with worker_process(server, folder) as worker:
            while worker.process.poll() is None:
                if all(client.status(wanted.id).is_terminal for wanted in jobs):
                    return starts
                time.sleep(0.02)
    raise AssertionError("jobs did not end")


def test_sigterm_finishes_what_is_in_flight_and_leaves_the_queue_alone(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    jobs = [client.accept(job(steps=60)) for _ in range(12)]
    with worker_process(server, tmp_path, options=("--slots", "8", "--step-s", "0.02")) as worker:
        for job_id in jobs[:8]:
            client.wait_until_started(job_id)
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert [client.status(job_id) for job_id in jobs] == [Status.SUCCEEDED] * 8 + [Status.QUEUED] * 4
    assert client.redis.llen("rq:queue:seemly-paced") == 4
    client.assert_ended_once(jobs[:8])


@pytest.mark.parametrize("way", ["limit", "second signal"])
def test_a_drain_cut_short_gives_jobs_back_at_once(
    server: RedisServer, client: Client, tmp_path: Path, way: str
) -> None:
    wanted = job(steps=150)
    client.accept(wanted)
    limit = ("--drain-limit-s", "0.2") if way == "limit" else ()
    with worker_process(server, tmp_path, options=("--step-s", "0.1", "--lease-s", "60", *limit)) as worker:
        client.wait_until_started(wanted.id)
        worker.send(signal.SIGTERM)
        if way == "second signal":
            time.sleep(1.2)
            worker.send(signal.SIGTERM)
        assert worker.wait() == 1
    assert client.redis.lrange("rq:queue:seemly-paced", 0, -1) == [wanted.id.encode()]
    with worker_process(server, tmp_path, options=("--step-s", "0.001")):
        assert client.wait_for([wanted.id]) == {wanted.id: Status.SUCCEEDED}
    assert client.attempt(wanted.id) == 2
    client.assert_ended_once([wanted.id])


def test_the_shutdown_command_drains(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = job(steps=60)
    client.accept(wanted)
    with worker_process(server, tmp_path) as worker:
        client.wait_until_started(wanted.id)
        _shut_down_all(client)
        assert worker.wait() == 0
    assert client.status(wanted.id) is Status.SUCCEEDED


def _shut_down_all(client: Client) -> None:
    for key in client.redis.smembers("rq:workers"):
        client.redis.publish(f"rq:pubsub:{key.decode().removeprefix('rq:worker:')}", '{"command": "shutdown"}')
