"""`python -m service.main`: one gateway process."""

import asyncio
import ipaddress
import socket
import sys
from contextlib import suppress
from types import FrameType

import uvicorn
from pydantic import ValidationError

from service.app import create_app
from service.settings import Settings


def main() -> None:
    """Serve until told to stop. Ends with a message instead where there are no keys to guard the address."""
    try:
        settings = Settings()
    except ValidationError as error:
        named = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        sys.exit(f"The settings cannot be used: {named}")
    if not is_loopback(settings.host):
        sys.exit(
            f"SEEMLY_HOST={settings.host} would serve everyone who can reach it, and there are no API keys yet: "
            "listen on 127.0.0.1 or ::1."
        )
    try:
        app = create_app(settings)
    except FileNotFoundError as error:
        sys.exit(f"SEEMLY_POLICY: {error}")
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    server = Server(config, app.state.gateway.leaving)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once all is closed
        server.run()
    if not server.started:
        sys.exit(3)


class Server(uvicorn.Server):
    """Tells the app at once that it is to end; uvicorn itself tells it only once nobody is on the line any more."""

    def __init__(self, config: uvicorn.Config, leaving: asyncio.Event) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._leaving.set)
        super().handle_exit(sig, frame)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


if __name__ == "__main__":
    main()
