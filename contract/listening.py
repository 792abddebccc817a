"""Whether an address can be listened on: found out at the start, and told by the settings that name it."""

import socket


class CannotListen(ValueError):
    """Another process listens there, or there is no such address here."""


def check_listening(prefix: str, host: str, port: int) -> None:
    """Try the address of the settings `prefix`_HOST and `prefix`_PORT for a moment.

    Raises:
        CannotListen: nobody can listen there now.
    """
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise CannotListen(f"{prefix}_HOST={host}, {prefix}_PORT={port}: {error.strerror or error}") from None
