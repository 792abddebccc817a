"""A webhook's receiver on loopback: a real HTTP server that remembers what it was sent and behaves as a test wants."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks.webhooks import Webhook


@dataclass(frozen=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self, whsec: str) -> Any:
        """The message, when the reference library finds it signed with this secret."""
        return Webhook(whsec).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What was received, in order."""

    port: int
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def times(self, message_id: str) -> int:
        """How often a message has come."""
        return sum(one.id == message_id for one in list(self.received))


Behaviour = Callable[[Receiver, BaseHTTPRequestHandler], None]


def accept(receiver: Receiver, request: BaseHTTPRequestHandler) -> None:
    """204."""
    request.send_response(204)
    request.end_headers()


@contextmanager
def receiving(behave: Behaviour = accept, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver on a free port of 127.0.0.1; `behave` answers, after the request has been noted."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            receiver.received.append(Received(self.path, dict(self.headers.items()), body))
            behave(receiver, self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # a sender that was killed, or refused our certificate

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    receiver = Receiver(server.server_port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
