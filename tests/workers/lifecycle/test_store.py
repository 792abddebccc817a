"""What a worker leaves in its store, a folder and a bucket alike: passed pictures, and nothing else."""

import base64
import hashlib
import threading
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contract import keys
from contract.filter import Action, Filter
from contract.job import Job, picture_key
from contract.plan import SafetyPlan
from contract.request import OutputFormat
from contract.result import Status
from contract.verdict import Verdict
from tests.redis_server import RedisServer
from tests.service.parts import redis_contents
from tests.stores import Place, S3Server, place, s3
from tests.workers.lifecycle.client import PATIENCE_S, Client, job
from tests.workers.lifecycle.conftest import RunningWorker, working
from tests.workers.lifecycle.paced_engine import PacedEngine
from workers.delivery import JobInFlight
from workers.finaliser import Finaliser
from workers.main import UnusableSetting, prepare
from workers.settings import Settings

__all__ = ["place", "s3"]


@pytest.fixture
def worker(server: RedisServer, tmp_path: Path, client: Client, place: Place) -> Iterator[RunningWorker]:
    """A worker on the store of the test."""
    with working(server, tmp_path, PacedEngine(), store_url=place.url) as running:
        yield running


def stored(place: Place, wanted: Job) -> set[str]:
    """What lies in the store of a job."""
    return {key for key in place.found() if key.startswith(f"{wanted.tenant}/{wanted.id}/")}


def test_a_job_succeeds_with_its_pictures_stored_and_told(client: Client, worker: RunningWorker, place: Place) -> None:
    wanted = job(pictures=3)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.SUCCEEDED}
    client.assert_ended_once([wanted.id])

    result = client.result(wanted.id)
    assert [picture.seed for picture in result.images] == [0, 1, 2]
    for picture in result.images:
        file = place.read(picture_key(wanted.id, wanted.tenant, 1, picture.index, OutputFormat.PNG))
        assert hashlib.sha256(file).hexdigest() == picture.sha256
        assert Image.open(BytesIO(file)).size == (picture.width, picture.height) == (64, 48)
        assert picture.url == f"/jobs/{wanted.id}/images/{picture.index}"
        assert [score.name for score in picture.concepts] == ["weapon"]
    assert result.metrics is not None
    assert result.metrics.unet_rows == 3 * 2 * 4
    assert result.safety is not None
    assert result.safety.applied == {"output": {"method": "filter"}}
    assert client.redis.llen(keys.SERVICE_TIMES) == 1


@pytest.mark.parametrize("output_format", OutputFormat)
def test_pictures_come_in_the_format_asked_for(
    client: Client, worker: RunningWorker, place: Place, output_format: OutputFormat
) -> None:
    wanted = job(output_format=output_format)
    client.accept(wanted)
    client.wait_for([wanted.id])
    [key] = stored(place, wanted)
    assert key.endswith(f".{output_format.value}")
    with Image.open(BytesIO(place.read(key))) as picture:
        assert picture.format == output_format.name


@pytest.mark.parametrize(
    ("plan", "verdict"),
    [
        (SafetyPlan.from_short_form("filter"), Verdict.BLOCKED),
        (SafetyPlan(output=Filter(action=Action.REVIEW)), Verdict.REVIEW),
    ],
)
def test_of_a_withheld_picture_no_byte_is_stored(
    client: Client, worker: RunningWorker, place: Place, plan: SafetyPlan, verdict: Verdict
) -> None:
    wanted = job("a weapon", pictures=2, plan=plan)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.BLOCKED}
    result = client.result(wanted.id)
    assert [picture.verdict for picture in result.images] == [verdict] * 2
    assert all(picture.url is None and picture.reasons for picture in result.images)
    assert all((picture.sha256 is not None) == picture.kept == (verdict is Verdict.REVIEW) for picture in result.images)
    assert stored(place, wanted) == set()


def test_a_job_delivers_its_passed_picture_and_no_byte_of_the_blocked_one(
    client: Client, worker: RunningWorker, place: Place
) -> None:
    wanted = job("a weapon|a harbour|a weapon", pictures=3)
    client.accept(wanted)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.PARTIAL}
    first, passed, last = client.result(wanted.id).images
    for blocked in (first, last):
        assert blocked.verdict is Verdict.BLOCKED
        assert blocked.url is None
        assert blocked.sha256 is None
    assert passed.verdict is Verdict.PASSED
    assert passed.url == f"/jobs/{wanted.id}/images/1"
    assert stored(place, wanted) == {picture_key(wanted.id, wanted.tenant, 1, 1, OutputFormat.PNG)}


def test_a_canceled_job_leaves_no_file_of_a_picture_that_was_finished(
    client: Client, worker: RunningWorker, place: Place
) -> None:
    wanted = job("a harbour|endless", pictures=2)
    client.accept(wanted)
    give_up_at = time.monotonic() + PATIENCE_S
    while ("progress", {"step": 7, "steps": 8}) not in client.events(wanted.id):  # the first ends with its last step
        assert time.monotonic() < give_up_at
        time.sleep(0.02)
    client.cancel(wanted.id)
    assert client.wait_for([wanted.id]) == {wanted.id: Status.CANCELED}
    assert client.result(wanted.id).images == ()
    assert stored(place, wanted) == set()


def test_tenants_have_their_own_places(client: Client, worker: RunningWorker, place: Place) -> None:
    jobs = [job(tenant=tenant) for tenant in ("acme", "acme-2")]
    client.wait_for([client.accept(one) for one in jobs])
    assert [len(stored(place, one)) for one in jobs] == [1, 1]


def test_no_byte_of_a_picture_passes_through_redis(
    server: RedisServer, client: Client, worker: RunningWorker, place: Place
) -> None:
    said: list[str] = []
    with client.redis.client() as own, own.monitor() as monitor:

        def listen() -> None:
            for command in monitor.listen():
                said.append(command["command"])
                if command["command"].startswith("ECHO enough"):
                    return

        listener = threading.Thread(target=listen)
        listener.start()
        wanted = job("a harbour|a weapon", pictures=2)
        client.accept(wanted)
        assert client.wait_for([wanted.id]) == {wanted.id: Status.PARTIAL}
        client.redis.echo("enough")
        listener.join(PATIENCE_S)
    [key] = stored(place, wanted)
    file = place.read(key)
    pixels = np.asarray(Image.open(BytesIO(file))).tobytes()
    everything = " ".join(said) + " ".join(content.decode() for content in redis_contents(server.url).values())
    assert wanted.id in everything
    assert "HSET" in everything
    for secret in (file[:8], file[100:132], pixels[:16], pixels[-16:]):
        as_redis_tells = repr(secret)[2:-1]
        assert as_redis_tells not in everything
        assert base64.b64encode(secret[: len(secret) // 3 * 3]).decode() not in everything


@pytest.mark.parametrize("kind", ["folder", "s3"])
def test_a_job_whose_pictures_cannot_be_stored_fails_after_its_attempts(
    server: RedisServer,
    client: Client,
    s3: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    url, taken = "s3://nowhere", tmp_path / "pictures" / "someone"
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    if kind == "folder":
        url = taken.parent.as_uri()
        taken.parent.mkdir()
        taken.write_text("where the tenant's folder would be")
    with working(server, tmp_path, PacedEngine(), store_url=url):
        wanted = client.accept(job())
        assert client.wait_for([wanted]) == {wanted: Status.FAILED}
    error = client.result(wanted).error
    assert error is not None
    assert (error.code, client.attempt(wanted)) == ("storage_failed", 3)


def test_a_job_is_taken_again_while_its_attempt_before_still_leaves(
    server: RedisServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver = Finaliser._deliver

    def slow_to_leave(self: Finaliser, in_flight: JobInFlight) -> None:
        deliver(self, in_flight)
        time.sleep(0.3)

    monkeypatch.setattr(Finaliser, "_deliver", slow_to_leave)
    taken = tmp_path / "pictures" / "someone"
    taken.parent.mkdir()
    taken.write_text("where the tenant's folder would be")
    with working(server, tmp_path, PacedEngine(step_s=0.2), store_url=taken.parent.as_uri()):
        wanted = client.accept(job())
        assert client.wait_for([wanted]) == {wanted: Status.FAILED}
    assert client.attempt(wanted) == 3


def test_a_worker_does_not_start_on_a_store_that_it_cannot_use(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment(*s3.reader).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UnusableSetting, match=r"^SEEMLY_STORE_URL=s3://nowhere: there is no such bucket|may not do"):
        prepare(Settings(data=tmp_path, store_url="s3://nowhere", device="cpu"))
    with pytest.raises(UnusableSetting, match=r"^SEEMLY_STORE_URL=s3://pictures: these credentials may not do"):
        prepare(Settings(data=tmp_path, store_url="s3://pictures", device="cpu"))
