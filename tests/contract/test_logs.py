"""A line of the log as JSON."""

import json
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from contract.logs import JsonLines, about


def line(message: str = "done", *arguments: object, broken: bool = False) -> dict[str, str]:
    record = logging.LogRecord(
        "service.x", logging.INFO, "x.py", 1, message, arguments, sys.exc_info() if broken else None
    )
    return json.loads(JsonLines().format(record))


def test_ids_are_of_the_innermost_work_and_of_this_thread_alone() -> None:
    with about(request_id="r", job_id=None), about(job_id="j"), ThreadPoolExecutor(1) as other:
        inner, elsewhere = line("job %s: %d", "j", 3), other.submit(line).result()
    assert (inner["message"], inner["request_id"], inner["job_id"]) == ("job j: 3", "r", "j")
    assert elsewhere.keys() == line().keys() == {"time", "level", "logger", "message"}


def test_an_error_is_told_by_its_kind_and_place_not_by_its_words() -> None:
    try:
        raise ValueError("a canary that nobody may repeat")
    except ValueError:
        told = line("it broke\nin two", broken=True)
    assert told["error"] == "ValueError"
    assert "test_logs.py" in told["at"]
    assert "repeat" not in json.dumps({**told, "at": told["at"].splitlines()[0]})


def test_a_line_stays_a_line() -> None:
    assert "\n" not in JsonLines().format(logging.LogRecord("x", 20, "x", 1, "one\ntwo", (), None))
