"""Whether a process without routes lives and can do its work, over HTTP, for whoever restarts it.

    /healthz/started   200 once it works: of a worker, once model and detectors are loaded
    /healthz/ready     200 while it can do its work: of a worker, while the gateway counts on it
    /healthz/live      200 until it works and while its loop turns; Redis away is no reason to restart

Any other answer is 503. The server starts before a model is loaded, which may take minutes.
"""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Protocol

from contract.side_server import SideServer


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


class HealthServer(SideServer):
    """Answers from `observed`, which is set once it works."""

    def __init__(self, port: int, host: str) -> None:
        super().__init__(port, host)
        self.observed: Observed | None = None

    def _start(self, host: str, port: int) -> tuple[ThreadingHTTPServer, Thread]:
        health = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                self.send_response(health.status(self.path))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Probes are no news."""

        server = ThreadingHTTPServer((host, port), Handler)
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, name="health", daemon=True)
        thread.start()
        return server, thread

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
