"""RQ without what it would run at the word of whoever can write to Redis: callbacks, webhooks, pickles."""

import logging
from typing import Any, NoReturn

import rq.serializers
from rq.job import Job as RqJob
from rq.registry import BaseRegistry
from rq.serializers import JSONSerializer
from rq.timeouts import BaseDeathPenalty


class NoDeathPenalty(BaseDeathPenalty):
    """Time limits live in the engine; RQ's alarms work in a main thread only."""

    def setup_death_penalty(self) -> None:
        """Set no alarm."""

    def cancel_death_penalty(self) -> None:
        """There is no alarm."""


class InertJob(RqJob):
    """A job that runs nothing: no function, no callback, no webhook that its hash in Redis may name."""

    success_callback = failure_callback = stopped_callback = None

    @property
    def func(self) -> NoReturn:
        """Refused: what a job does is looked up in the worker's own table."""
        raise PermissionError("functions named in Redis are not imported")

    def perform(self) -> NoReturn:
        """Refused, as `func`."""
        raise PermissionError("jobs are run by the engine, not by RQ")

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """Send none: RQ's are unsigned and go wherever the job's hash says."""


def disarm_rq() -> None:
    """Take pickle and alarms out of RQ, for the whole process. To be called before anything is fetched."""
    rq.serializers.PickleSerializer = rq.serializers.DefaultSerializer = JSONSerializer
    rq.serializers.SERIALIZER_ALIASES["pickle"] = JSONSerializer
    BaseRegistry.death_penalty_class = NoDeathPenalty
    for name in ("rq.worker", "rq.job", "rq.queue", "rq.registry", "rq.scripts"):
        logging.getLogger(name).setLevel(logging.WARNING)
