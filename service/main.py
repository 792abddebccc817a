"""`python -m service.main`: one gateway process."""

import ipaddress
import sys

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
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        log_level=settings.log_level,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=10,
    )


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
