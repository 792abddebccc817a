"""The one place where connections to webhooks are opened: resolved, checked, and made to what was checked."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address

import httpcore

from service.webhooks.targets import Address, Network, why_unreachable

MOST_ADDRESSES = 4  # of a name, tried in turn

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]


class TargetRefused(Exception):
    """An address that a webhook may not lead to."""


class SystemResolver:
    """The machine's own resolver, in threads of its own: names that never resolve hold up nobody else's work."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[Address]:
        """Every address of a name, or the address that it already is.

        Raises:
            OSError: when there is none.
        """
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._look_up, host, port)
        return tuple(dict.fromkeys(found))

    def close(self) -> None:
        """Wait for nothing."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    def _look_up(host: str, port: int) -> list[Address]:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise OSError("the name cannot be one") from None
        return [ip_address(str(where[0])) for *_, where in entries]


@dataclass(frozen=True)
class CheckedConnections(httpcore.AsyncNetworkBackend):
    """What httpcore opens its connections with. TLS still names and verifies the host of the URL."""

    resolve: Resolve
    networks: Sequence[Network]
    is_plain: bool

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address that answers, if all of them may be reached.

        Raises:
            TargetRefused: when one of them may not.
            OSError: when there is none.
        """
        addresses = await self.resolve(host, port)
        if not addresses:
            raise OSError("the name has no address")
        for address in addresses:
            if why := why_unreachable(address, is_plain=self.is_plain, networks=self.networks):
                raise TargetRefused(why)
        failed: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for address in addresses[:MOST_ADDRESSES]:
            try:
                return await httpcore.AnyIOBackend().connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failed = error
        raise failed or OSError("no address was tried")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's own signature
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never.

        Raises:
            TargetRefused: always.
        """
        raise TargetRefused("must lead to a public address")

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
