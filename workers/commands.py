"""RQ's commands to a worker, over pub/sub: `stop-job`, `stop-execution` and `shutdown`."""

import logging
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

from rq.command import parse_payload
from rq.executions import Execution

log = logging.getLogger(__name__)


def obey(message: Any, executions: Iterable[Execution], stop_job: Callable[[str], None]) -> None:
    """Do what a message says to a worker that holds these executions. Whatever arrives, nothing is raised: anyone can
    publish anything, and the thread that listens must not end of it."""
    try:
        _obey(parse_payload(message), executions, stop_job)
    except Exception as error:  # noqa: BLE001 - as above
        log.warning("ignored a malformed command: %s", type(error).__name__)


def _obey(payload: Any, executions: Iterable[Execution], stop_job: Callable[[str], None]) -> None:
    command = payload["command"]
    if command == "shutdown":
        os.kill(os.getpid(), signal.SIGINT)
    elif command in ("stop-job", "stop-execution"):
        job_id, execution_id = payload.get("job_id"), payload.get("execution_id")
        for execution in executions:
            if execution.id == execution_id or (command == "stop-job" and execution.job_id == job_id):
                stop_job(execution.job_id)
    else:
        log.warning("ignored an unknown command")
