"""`python -m service.main`: one gateway process."""

import asyncio
import gc
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

import uvicorn
from pydantic import ValidationError
from redis import Redis
from redis.exceptions import RedisError

from contract import keys
from contract.exits import give_up
from contract.listening import CannotListen, check_listening
from contract.logs import set_up_logs
from contract.redis_safety import OVERRIDE, RedisSafety
from contract.store import open_store
from contract.tracing import TracingUnavailable
from contract.wording import settings_wording
from service.api_keys import Pepper
from service.app import create_app
from service.loopback import is_loopback
from service.policy import load_policy
from service.protocol import ProblemProtocol
from service.provenance import anchors_in
from service.settings import Settings


def main() -> None:
    """Serve until told to stop. Ends with a message and EX_CONFIG where the settings do not allow it."""
    try:
        settings = Settings()
    except ValidationError as error:
        give_up(f"the settings cannot be used: {settings_wording(error)}")
    has_keys = are_there_keys(settings)
    if not is_loopback(settings.host) and has_keys is False:
        give_up(
            f"SEEMLY_HOST={settings.host} would serve everyone who can reach it, and there are no API keys yet: "
            "make one with `seemly keys create TENANT`, or listen on 127.0.0.1 or ::1."
        )
    if not settings.allow_unsafe_redis and (faults := unsafe_redis(settings)):
        give_up(f"{'; '.join(faults)}{OVERRIDE}.")
    _try("SEEMLY_POLICY", lambda: load_policy(settings.policy))
    if settings.pepper is not None or has_keys:
        pepper = settings.pepper.get_secret_value() if settings.pepper else None
        _try("SEEMLY_PEPPER", lambda: Pepper.read(pepper, settings.pepper_path))
    store = "SEEMLY_STORE_URL" if settings.store_url else "SEEMLY_DATA"
    _try(store, lambda: open_store(settings.pictures_url))
    _try("SEEMLY_WITHHELD_URL" if settings.withheld_url else store, lambda: open_store(settings.withheld_pictures_url))
    _try("SEEMLY_PROVENANCE_ANCHORS", lambda: anchors_in(settings.provenance_anchors))
    set_up_logs(settings.log_level, settings.log_format)
    try:
        check_listening("SEEMLY", settings.host, settings.port)
        app = create_app(settings)
    except CannotListen as error:
        give_up(str(error))
    except TracingUnavailable as error:
        give_up(f"SEEMLY_OTLP_URL: {error}")
    gc.freeze()  # what stays for good need not be looked through again and again
    gc.set_threshold(10_000, 20, 20)  # a request leaves hardly any cycles behind
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=ProblemProtocol,
        log_config=None,  # through ours, with the time
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )
    server = Server(config, app.state.gateway.leaving)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again once all is closed
        server.run()
    if not server.started:
        sys.exit(3)


def are_there_keys(settings: Settings) -> bool | None:
    """Whether Redis says so. None: it says nothing, and requests will be refused until it answers."""
    try:
        with asked_once(settings) as redis:
            return bool(redis.exists(keys.API_KEYS))
    except RedisError:
        return None


def unsafe_redis(settings: Settings) -> tuple[str, ...]:
    """What is wrong with Redis' settings. Where it says nothing, it is asked again before a job is accepted."""
    try:
        with asked_once(settings) as redis:
            return RedisSafety(redis).faults()
    except RedisError:
        return ()


def asked_once(settings: Settings) -> Redis:
    """A client for the start alone."""
    return Redis.from_url(settings.redis_url, socket_timeout=2, socket_connect_timeout=2)


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


def _try(variable: str, use: Callable[[], object]) -> None:
    """Use what a variable names; where it cannot be, say so and end."""
    try:
        use()
    except Exception as error:  # noqa: BLE001 - YAML's, pydantic's, the system's and the store's many ways to refuse
        give_up(f"{variable}: {str(error).partition(chr(10))[0]}")


if __name__ == "__main__":
    main()
