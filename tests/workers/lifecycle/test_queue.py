"""How a worker stands in RQ, and what it refuses to do at the word of whoever can write to Redis."""

import json
import os
import pickle
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from pydantic import ValidationError
from redis import Redis
from rq.command import send_stop_job_command
from rq.job import Job as RqJob
from rq.registry import clean_registries
from rq.serializers import JSONSerializer

from contract import keys
from contract.model import ModelInfo
from contract.result import Status
from tests.redis_server import RedisServer
from tests.seemly.processes import eventually
from tests.workers.lifecycle.client import Client, job
from tests.workers.lifecycle.conftest import RunningWorker, working
from tests.workers.lifecycle.paced_engine import INFO, PacedEngine
from workers.engine.picture import PictureSpec
from workers.lifecycle import RqWorker
from workers.records import JobRecords, NotStarted, Started
from workers.results import failed
from workers.settings import Settings

LONG = 150  # steps


def rq_info(server: RedisServer) -> str:
    """What `rq info` prints."""
    command = [sys.executable, "-m", "rq.cli", "info", "--url", server.url, "-S", "json", "--raw"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


def test_a_worker_takes_no_job_while_redis_might_lose_it(
    server: RedisServer, client: Client, worker: RunningWorker
) -> None:
    assert eventually(lambda: worker.worker.is_ready)
    client.redis.config_set("appendonly", "no")
    assert eventually(lambda: not worker.worker.is_ready)
    waiting = client.accept(job())
    time.sleep(1.2)  # longer than a worker asks the queue for a job
    assert client.status(waiting) is Status.QUEUED
    client.redis.config_set("appendonly", "yes")
    client.wait_for([waiting])
    assert worker.worker.is_ready


def test_rq_info_shows_queue_and_worker_truthfully(
    server: RedisServer, client: Client, tmp_path: Path, engine: PacedEngine
) -> None:
    with working(server, tmp_path, engine, slots=2) as worker:
        running = [client.accept(job(steps=LONG)) for _ in range(2)]
        for job_id in running:
            client.wait_until_started(job_id)
        client.accept(job())
        busy = rq_info(server)
        assert "queue seemly-paced 1" in busy
        assert f"worker {worker.worker.name}" in busy
        assert " busy" in busy
        for job_id in running:
            client.cancel(job_id)
        client.wait_for(running)
        client.wait_for([client.accept(job()), client.accept(job("row-fails"))])
        time.sleep(0.3)
        idle = rq_info(server)
        assert "queue seemly-paced 0" in idle
        assert " idle" in idle
        entry = client.redis.hgetall(f"rq:worker:{worker.worker.name}")
        assert int(entry[b"successful_job_count"]) == 4
        assert int(entry[b"failed_job_count"]) == 1
    assert worker.worker.name not in rq_info(server)


def test_readiness_is_a_lease_that_ends_with_the_worker(client: Client, worker: RunningWorker) -> None:
    client.wait_for([client.accept(job())])
    [(member, ends)] = client.redis.zrange(keys.READY_WORKERS, 0, -1, withscores=True)
    assert member.decode() == f"paced|{worker.worker.name}"
    assert 0 < ends - time.time() <= 2
    assert worker.stop() == 0
    assert client.redis.zcard(keys.READY_WORKERS) == 0
    known = client.redis.hget(keys.MODELS, "paced")
    assert ModelInfo.model_validate_json(known or b"") == INFO
    assert client.redis.get(keys.tokenizer_key(INFO.tokenizer_sha256)) == b"{}"


def test_a_function_that_is_not_in_the_table_fails_its_job_and_is_not_imported(
    client: Client, worker: RunningWorker, tmp_path: Path
) -> None:
    marker = tmp_path / "made-by-redis"
    wanted = job()
    client.accept(wanted, function="os.mkdir")
    client.redis.hset(RqJob.key_for(wanted.id), "data", JSONSerializer.dumps(["os.mkdir", None, [str(marker)], {}]))
    other = client.accept(job())
    statuses = client.wait_for([wanted.id, other])
    assert statuses == {wanted.id: Status.FAILED, other: Status.SUCCEEDED}
    error = client.result(wanted.id).error
    assert error is not None
    assert error.code == "unknown_function"
    assert not marker.exists()


class _Trap:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("field", ["data", "meta", "result"])
def test_a_pickle_in_a_jobs_hash_is_never_run(
    client: Client, worker: RunningWorker, tmp_path: Path, field: str
) -> None:
    marker = tmp_path / "made-by-a-pickle"
    wanted = job()
    client.redis.set("rq:suspended", 1)
    time.sleep(0.7)  # until the next heartbeat
    client.accept(wanted)
    client.redis.hset(RqJob.key_for(wanted.id), field, pickle.dumps(_Trap(marker)))
    client.redis.delete("rq:suspended")
    client.wait_for([wanted.id])
    assert not marker.exists()


def test_callbacks_and_webhooks_named_in_redis_are_not_called(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    wanted = job()
    client.accept(wanted)
    hooks = {
        "success_callback_name": "os.getpid",
        "webhooks": json.dumps([{"url": "http://127.0.0.1:9/", "statuses": ["finished"]}]),
    }
    client.redis.hset(RqJob.key_for(wanted.id), mapping=hooks)
    with working(server, tmp_path, PacedEngine()):
        assert client.wait_for([wanted.id]) == {wanted.id: Status.SUCCEEDED}


@pytest.mark.parametrize(
    "fields", [{"created_at": "the day before"}, {"data": b"\xff"}], ids=["unreadable date", "unreadable data"]
)
def test_a_job_whose_hash_cannot_be_read_fails(
    server: RedisServer, client: Client, tmp_path: Path, fields: dict[str, str]
) -> None:
    wanted, other = job(), job()
    client.accept(wanted)
    client.accept(other)
    client.redis.hset(RqJob.key_for(wanted.id), mapping=fields)
    with working(server, tmp_path, PacedEngine()):
        statuses = client.wait_for([wanted.id, other.id])
    assert statuses == {wanted.id: Status.FAILED, other.id: Status.SUCCEEDED}
    client.assert_ended_once([wanted.id, other.id])
    assert client.redis.llen("rq:queue:seemly-paced:intermediate") == 0


def test_a_record_that_is_no_job_fails_and_quotes_nothing(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = job("a secret prompt")
    client.accept(wanted)
    broken = wanted.model_dump_json().replace('"steps":4', '"steps":"a secret prompt"')
    client.redis.hset(keys.job_key(wanted.id), "job", broken)
    with working(server, tmp_path, PacedEngine()):
        client.wait_for([wanted.id])
    error = client.result(wanted.id).error
    assert error is not None
    assert error.code == "invalid_job"
    assert "steps" in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize("found", ["queued", "running"])
@pytest.mark.parametrize("attempt", ["x", "-1", "1.5", "9" * 30, b"\xff"])
def test_a_record_with_a_corrupt_attempt_fails_and_stops_no_other(
    server: RedisServer, client: Client, tmp_path: Path, attempt: str | bytes, found: str
) -> None:
    wanted, other = client.accept(job()), client.accept(job())
    client.redis.hset(keys.job_key(wanted), mapping={"attempt": attempt, "status": found})
    with working(server, tmp_path, PacedEngine()):
        assert client.wait_for([wanted, other]) == {wanted: Status.FAILED, other: Status.SUCCEEDED}
    error = client.result(wanted).error
    assert error is not None
    assert error.code == "invalid_job"
    client.assert_ended_once([wanted, other])


def test_a_corrupt_deadline_does_not_stop_the_search_for_lost_jobs(client: Client, worker: RunningWorker) -> None:
    corrupt, lost = client.accept(job(steps=LONG)), client.accept(job(tenant="other"))
    client.redis.hset(keys.job_key(corrupt), "deadline_at", "the day after")
    client.redis.delete("rq:queue:seemly-paced")
    assert set(client.wait_for([corrupt, lost]).values()) == {Status.SUCCEEDED}


def test_a_record_that_is_no_hash_hides_no_other_job(client: Client, worker: RunningWorker) -> None:
    broken, lost = client.accept(job(steps=LONG)), job()
    client.wait_until_started(broken)
    client.redis.set(keys.job_key(broken), "no hash")
    client.accept(lost)
    client.queue().remove(lost.id)
    canceled = client.accept(job(steps=LONG))
    client.wait_until_started(canceled)
    client.cancel(canceled)
    assert client.wait_for([lost.id, canceled]) == {lost.id: Status.SUCCEEDED, canceled: Status.CANCELED}
    assert eventually(lambda: client.redis.zcard(keys.ACCEPTED) == 0)


def test_a_job_that_the_engine_refuses_stops_no_other(server: RedisServer, client: Client, tmp_path: Path) -> None:
    class Refusing(PacedEngine):
        def submit(self, *specs: PictureSpec) -> None:
            if any(spec.prompt == "refused" for spec in specs):
                raise ValueError("refused")
            super().submit(*specs)

    refused = client.accept(job("refused", pictures=2))
    with working(server, tmp_path, Refusing(), slots=1) as worker:
        assert client.wait_for([client.accept(job())]) != {}
        assert client.wait_for([refused]) == {refused: Status.FAILED}
        assert worker.stop() == 0
    error = client.result(refused).error
    assert error is not None
    assert error.code == "poison_job"
    client.assert_ended_once([refused])


def test_a_record_that_holds_another_job_is_not_run(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted, other = job(), job()
    client.accept(wanted)
    client.redis.hset(keys.job_key(wanted.id), "job", other.model_dump_json())
    with working(server, tmp_path, PacedEngine()) as worker:
        assert client.wait_for([wanted.id]) == {wanted.id: Status.FAILED}
        assert worker.files() == []
    error = client.result(wanted.id).error
    assert error is not None
    assert error.code == "invalid_job"


def test_a_cancellation_asked_of_an_earlier_attempt_is_obeyed_at_the_next(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    wanted = client.accept(job())
    client.redis.hset(keys.job_key(wanted), mapping={"status": "running", "attempt": 1})
    assert client.cancel(wanted) == "running"
    with working(server, tmp_path, PacedEngine(), watch_s=1):  # no look for cancellations before the job is done
        assert client.wait_for([wanted]) == {wanted: Status.CANCELED}
    client.assert_ended_once([wanted])


def test_a_start_sent_twice_counts_once(client: Client) -> None:
    wanted = client.accept(job())
    records = JobRecords(client.redis, ttl_s=60)
    first = records.start(wanted, starter="one")
    assert isinstance(first, Started)
    assert first.attempt == 1
    assert records.start(wanted, starter="one") == first
    again = records.start(wanted, starter="two")
    assert isinstance(again, Started)
    assert again.attempt == 2
    assert [data["attempt"] for kind, data in client.events(wanted) if kind == "started"] == [1, 2]
    assert records.commit(wanted, 2, failed("lost", "for the test"))
    assert records.start(wanted, starter="two") == NotStarted("failed")


def test_a_job_listed_three_times_runs_once(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = job(steps=40)
    client.accept(wanted)
    client.redis.rpush("rq:queue:seemly-paced", wanted.id, wanted.id)
    with working(server, tmp_path, PacedEngine()):
        client.wait_for([wanted.id])
        client.wait_for([client.accept(job())])
    assert client.attempt(wanted.id) == 1
    client.assert_ended_once([wanted.id])


def test_an_id_without_a_record_is_dropped(client: Client, worker: RunningWorker) -> None:
    client.queue().enqueue_call(keys.GENERATE, job_id="nobody")
    client.redis.rpush("rq:queue:seemly-paced", "no hash either")
    client.wait_for([client.accept(job())])
    time.sleep(2)  # longer than the reaper's grace
    assert client.redis.llen("rq:queue:seemly-paced:intermediate") == 0


def test_canceling_a_running_job_stops_it(client: Client, worker: RunningWorker) -> None:
    wanted, other = job(steps=LONG), job(steps=20)
    client.accept(wanted)
    client.accept(other)
    client.wait_until_started(wanted.id)
    assert client.cancel(wanted.id) == "running"
    statuses = client.wait_for([wanted.id, other.id])
    assert statuses == {wanted.id: Status.CANCELED, other.id: Status.SUCCEEDED}
    assert len(worker.files()) == 1


def test_stop_job_reaches_any_of_the_jobs_in_flight(client: Client, worker: RunningWorker) -> None:
    jobs = [client.accept(job(steps=LONG)) for _ in range(3)]
    for job_id in jobs:
        client.wait_until_started(job_id)
    send_stop_job_command(client.redis, jobs[1], serializer=JSONSerializer)
    assert client.wait_for([jobs[1]]) == {jobs[1]: Status.CANCELED}
    assert {client.status(jobs[0]), client.status(jobs[2])} == {Status.RUNNING}
    for job_id in jobs:
        client.cancel(job_id)
    client.wait_for(jobs)


def test_a_job_canceled_while_queued_is_never_started(server: RedisServer, client: Client, tmp_path: Path) -> None:
    wanted = job()
    client.accept(wanted)
    assert client.cancel(wanted.id) == "queued"
    with working(server, tmp_path, PacedEngine()):
        client.wait_for([client.accept(job())])
    assert client.attempt(wanted.id) == 0
    client.assert_ended_once([wanted.id])


def test_malformed_commands_leave_the_worker_listening(client: Client, worker: RunningWorker) -> None:
    wanted = job(steps=LONG)
    client.accept(wanted)
    client.wait_until_started(wanted.id)
    channel = f"rq:pubsub:{worker.worker.name}"
    for message in (
        b"",
        b"\xff\xfe",
        b"not json",
        b"[]",
        b"null",
        b"{}",
        b'{"command": 7}',
        b'{"command": "stop-job"}',
    ):
        client.redis.publish(channel, message)
    client.redis.publish(channel, json.dumps({"command": "stop-job", "job_id": wanted.id}))
    assert client.wait_for([wanted.id]) == {wanted.id: Status.CANCELED}


def test_a_store_that_refuses_fails_its_job_and_no_other(client: Client, worker: RunningWorker) -> None:
    worker.pictures.mkdir(exist_ok=True)
    (worker.pictures / "homeless").write_text("a file where the tenant's folder should be")
    wanted = job(tenant="homeless", pictures=2)
    other = job()
    client.accept(wanted)
    client.accept(other)
    statuses = client.wait_for([wanted.id, other.id])
    assert statuses == {wanted.id: Status.FAILED, other.id: Status.SUCCEEDED}
    error = client.result(wanted.id).error
    assert error is not None
    assert error.code == "storage_failed"
    client.assert_ended_once([wanted.id])


def test_no_byte_of_a_withheld_picture_is_in_redis_or_in_a_log(
    client: Client, worker: RunningWorker, caplog: pytest.LogCaptureFixture
) -> None:
    prompts = ["a secret weapon", "secret unscored", "secret row-fails", "secret nan"]
    wanted = [client.accept(job(prompt, pictures=2)) for prompt in prompts]
    client.wait_for(wanted)
    everything = b"".join(_dumped(client.redis))
    assert b"PNG\r\n" not in everything
    assert max(len(value) for value in _dumped(client.redis)) < 64 * 48 * 3 / 2
    assert worker.files() == []
    assert "secret" not in caplog.text


def _dumped(redis: Redis) -> list[bytes]:
    return [redis.dump(key) or b"" for key in redis.scan_iter(count=1000)]


def test_metrics_are_served_on_a_port_of_their_own(tmp_path: Path) -> None:
    from workers.metrics import MetricsServer, WorkerMetrics

    metrics = WorkerMetrics()
    metrics.note_end("filter", Status.SUCCEEDED)
    with MetricsServer(metrics, 19_091, "127.0.0.1"), urllib.request.urlopen("http://127.0.0.1:19091/metrics") as page:
        assert 'seemly_worker_jobs_total{mode="filter",outcome="succeeded"} 1.0' in page.read().decode()


def test_a_lease_shorter_than_two_heartbeats_is_refused() -> None:
    with pytest.raises(ValidationError, match="raise SEEMLY_LEASE_S"):
        Settings(lease_s=10, heartbeat_s=10)


def test_a_lease_lasts_as_long_as_it_says(client: Client) -> None:
    """RQ counts in whole seconds: taken just before one ends, a lease of one second must not end with it."""
    worker = RqWorker(keys.queue_name("paced"), client.redis, 1, print)
    client.accept(job())
    time.sleep(0.95 - time.time() % 1 if time.time() % 1 < 0.95 else 1.95 - time.time() % 1)
    ticket = worker.take()
    assert ticket is not None
    worker.begin(ticket)
    time.sleep(0.5)
    clean_registries(worker.queue)
    assert worker.queue.started_job_registry.count == 1
    assert client.redis.llen(worker.queue.key) == 0
    time.sleep(2)
    clean_registries(worker.queue)
    assert client.redis.lrange(worker.queue.key, 0, -1) == [ticket.job_id.encode()]
