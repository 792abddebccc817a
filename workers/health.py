"""Whether the worker lives and can take jobs, over HTTP, for whoever restarts it.

    /healthz/started   200 once model and detectors are loaded
    /healthz/ready     200 while the gateway counts on this worker
    /healthz/live      200 while the model loads and while the engine's loop turns; Redis away is no reason to restart

Any other answer is 503. The server starts before the model is loaded, which may take minutes.
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Protocol, Self


class Observed(Protocol):
    """What is asked of a worker."""

    @property
    def is_alive(self) -> bool:
        """Whether its engine's loop turns."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it takes jobs."""
        ...


class HealthServer:
    """Answers while it is entered; on port 0, nothing. `worker` is set once there is one."""

    def __init__(self, port: int, host: str) -> None:
        self.worker: Observed | None = None
        self._address = (host, port)
        self._running: tuple[ThreadingHTTPServer, Thread] | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._running[0].server_address[1] if self._running else 0

    def __enter__(self) -> Self:
        if self._address[1]:
            self.listen()
        return self

    def listen(self) -> None:
        """Start to answer; on port 0, on any that is free."""
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                self.send_response(health.status(self.path))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Probes are no news."""

        server = ThreadingHTTPServer(self._address, Handler)
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()
        self._running = server, thread

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join()
            self._running = None

    def status(self, path: str) -> int:
        """The answer's status."""
        worker = self.worker
        match path:
            case "/healthz/started":
                is_well = worker is not None
            case "/healthz/ready":
                is_well = worker is not None and worker.is_ready
            case "/healthz/live":
                is_well = worker is None or worker.is_alive
            case _:
                return 404
        return 200 if is_well else 503
