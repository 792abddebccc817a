"""A real redis-server on a Unix socket, for one test: started, killed, frozen, started again on the same files."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from seemly.redis_process import find_binary

READY_WITHIN_S = 10.0


class RedisServer:
    """One server with an append-only file in a folder."""

    def __init__(self, folder: Path, *options: str) -> None:
        self._folder = folder
        self._options = options
        self._socket_folder = Path(tempfile.mkdtemp(prefix="redis-"))  # a socket's path holds at most 107 bytes
        self._socket = self._socket_folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For `Redis.from_url`."""
        return f"unix://{self._socket}"

    def client(self) -> Redis:
        """A client; the caller closes it."""
        return Redis.from_url(self.url)

    def start(self) -> None:
        """Start on the files that are there; returns when it answers."""
        binary = str(find_binary().path)
        self._process = subprocess.Popen(
            [
                *(binary, "--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                *("--dir", str(self._folder), "--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
                # While a fsync of `everysec` lags behind, Redis answers before it writes, and what is killed then on a
                # busy disk has lost it. Without, what was answered survives the process.
                *("--appendfsync", "no"),
                *self._options,
            ],
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        give_up_at = time.monotonic() + READY_WITHIN_S
        with self.client() as client:
            while True:
                try:
                    client.ping()
                except RedisError:
                    if time.monotonic() > give_up_at:
                        raise
                    time.sleep(0.01)
                else:
                    return

    def kill(self) -> None:
        """End it as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it without ending it."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End it and remove its socket."""
        self.kill()
        shutil.rmtree(self._socket_folder, ignore_errors=True)


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """A server that answers, and is gone afterwards. `options` are further arguments of redis-server."""
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.close()
