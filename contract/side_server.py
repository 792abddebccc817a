"""A small server beside a process's own work, in a thread."""

from abc import ABC, abstractmethod
from socketserver import TCPServer
from threading import Thread
from types import TracebackType
from typing import Self


class SideServer(ABC):
    """Answers while it is entered; on port 0, nothing."""

    def __init__(self, port: int, host: str) -> None:
        self._address = (host, port)
        self._running: tuple[TCPServer, Thread] | None = None

    @property
    def port(self) -> int:
        """The port it listens on; 0: none."""
        return self._running[0].server_address[1] if self._running else 0

    def __enter__(self) -> Self:
        if self._address[1]:
            self.listen()
        return self

    def listen(self) -> None:
        """Start to answer; on port 0, on any that is free."""
        self._running = self._start(*self._address)

    @abstractmethod
    def _start(self, host: str, port: int) -> tuple[TCPServer, Thread]:
        """A server there, and the thread in which it answers by now."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._running is not None:
            server, thread = self._running
            server.shutdown()
            server.server_close()
            thread.join()
            self._running = None
