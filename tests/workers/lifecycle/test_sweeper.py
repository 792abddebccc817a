"""Pictures do not outlive their records by more than a margin, and nothing else in the store is touched."""

import os
import time
from pathlib import Path

import obstore
import pytest
from obstore.store import ObjectStore

from contract.job import MAX_ATTEMPTS, picture_key
from contract.request import OutputFormat
from contract.result import Status
from contract.store import open_store
from tests.redis_server import RedisServer
from tests.stores import Place, place, s3
from tests.workers.lifecycle.client import PATIENCE_S, Client, job
from tests.workers.lifecycle.conftest import working
from tests.workers.lifecycle.paced_engine import PacedEngine
from workers.sweeper import Sweeper

__all__ = ["place", "s3"]

DAY_S = 86_400


def put(folder: Path, key: str, age_s: float) -> Path:
    """A file in the store that was written so long ago."""
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"picture")
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def key_of(index: int, output_format: OutputFormat = OutputFormat.PNG) -> str:
    """Where a picture of some job lies."""
    return picture_key(job().id, "someone", 1, index, output_format)


def test_only_old_pictures_are_removed(tmp_path: Path) -> None:
    old = [put(tmp_path, key_of(index, kind), DAY_S + 60) for index, kind in enumerate(OutputFormat)]
    young = put(tmp_path, key_of(0), DAY_S - 60)
    foreign = [put(tmp_path, name, 9 * DAY_S) for name in ("accounts.csv", "a/b/1-0.png", f"more/{key_of(0)}")]
    sweeper = Sweeper(open_store(f"file://{tmp_path}"), lambda _: DAY_S)
    assert sweeper.sweep() == len(old)
    assert not any(path.exists() or path.parent.exists() for path in old)
    assert young.exists()
    assert all(path.exists() for path in foreign)
    assert sweeper.sweep() == 0


def test_both_kinds_of_store_are_swept(place: Place) -> None:
    pictures = {key_of(index, kind) for index, kind in enumerate(OutputFormat)}
    foreign = {"accounts.csv", "a/b/1-0.png", f"more/{key_of(0)}"}
    for key in pictures | foreign:
        place.put(key, b"picture")
    store = open_store(place.url)
    assert Sweeper(store, lambda _: 60).sweep() == 0
    assert place.found() >= pictures | foreign
    assert Sweeper(store, lambda _: -60).sweep() == len(pictures)  # as if a minute later
    assert place.found() & (pictures | foreign) == foreign


def test_a_sweep_of_many_pictures_ends_and_can_be_stopped(tmp_path: Path) -> None:
    for index in range(1200):
        put(tmp_path, key_of(index), DAY_S + 60)
    told: list[int] = []
    sweeper = Sweeper(open_store(f"file://{tmp_path}"), lambda _: DAY_S, lambda _, names: told.append(len(names)))
    assert sweeper.sweep(lambda: True) == 0
    assert sweeper.sweep() == 1200
    assert told == [500, 500, 200]  # as it goes: a worker that is killed leaves little unsaid


def test_what_went_before_the_store_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, told = [put(tmp_path, key_of(index), DAY_S + 60) for index in range(3)], list[str]()
    delete = obstore.delete

    def fail_at_the_third(store: ObjectStore, key: str) -> None:
        if sum(file.exists() for file in files) == 1:
            raise PermissionError(key)
        delete(store, key)

    monkeypatch.setattr(obstore, "delete", fail_at_the_third)
    sweeper = Sweeper(open_store(f"file://{tmp_path}"), lambda _: DAY_S, lambda _, names: told.extend(names))
    sweeper.sweep()
    assert len(told) == 2
    assert not any((tmp_path / "someone" / name).exists() for name in told)


def test_a_store_that_is_gone_ends_no_sweeper(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path / 'store'}")
    (tmp_path / "store").rmdir()
    assert Sweeper(store, lambda _: DAY_S).sweep() == 0


def test_a_worker_removes_what_an_ended_job_left_and_keeps_what_can_be_read(
    server: RedisServer, client: Client, tmp_path: Path
) -> None:
    lost = job()
    client.accept(lost)
    client.redis.hset(f"seemly:job:{lost.id}", mapping={"status": "running", "attempt": MAX_ATTEMPTS})
    key = picture_key(lost.id, lost.tenant, 1, 0, OutputFormat.PNG)
    left = put(tmp_path / "pictures", key, DAY_S + 120)
    with working(server, tmp_path, PacedEngine(), sweep_s=0.1, sweep_margin_s=60):
        assert client.wait_for([lost.id]) == {lost.id: Status.FAILED}
        wanted = client.accept(job())
        assert client.wait_for([wanted]) == {wanted: Status.SUCCEEDED}
        give_up_at = time.monotonic() + PATIENCE_S
        while left.exists():
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        time.sleep(0.3)
        assert len([path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]) == 1
