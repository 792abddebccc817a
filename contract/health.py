"""Whether a process without routes lives and can do its work, over HTTP, for whoever restarts it.

    /healthz/started   200 once it works: of a worker, once model and detectors are loaded
    /healthz/ready     200 while it can do its work: of a worker, while the gateway counts on it
    /healthz/live      200 until it works and while its loop turns; Redis away is no reason to restart

Any other answer is 503. The server starts before a model is loaded, which may take minutes.
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType
from typing import Protocol, Self


class Observed(Protocol):
    """What is asked of whatever works."""

    @property
    def is_alive(self) -> bool:
        """Whether its loop turns."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it can do its work."""
        ...


class HealthServer:
    """Answers while it is entered; on port 0, nothing. `observed` is set once it works."""

    def __init__(self, port: int, host: str) -> None:
        self.observed: Observed | None = None
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
        observed = self.observed
        match path:
            case "/healthz/started":
                is_well = observed is not None
            case "/healthz/ready":
                is_well = observed is not None and observed.is_ready
            case "/healthz/live":
                is_well = observed is None or observed.is_alive
            case _:
                return 404
        return 200 if is_well else 503
