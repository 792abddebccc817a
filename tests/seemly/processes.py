"""`seemly serve` as a process, and waiting for processes and conditions without a guess at how long they take."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than an entry that nobody has waited for."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def serve(model: Path, data: Path, *words: str, **more: str) -> "subprocess.Popen[str]":
    """`seemly serve` in a process of its own, ready; with more words and settings."""
    own = {"SEEMLY_MODEL": str(model), "SEEMLY_MODEL_NAME": "tiny", "SEEMLY_DATA": str(data)}
    command = [sys.executable, "-c", "from seemly.cli import app; app()", "serve", "--port", "0", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=os.environ | own | more, **pipes)
    assert process.stdout is not None
    for line in process.stdout:
        if "Ctrl-C stops it" in line:
            return process
    raise AssertionError(f"seemly serve ended with code {process.wait()}")


def url_of(data: Path) -> str:
    """Where the stack on this folder answers."""
    return (data / "stack.lock").read_text().rpartition(" ")[2]


@contextmanager
def serving(model: Path, data: Path, *words: str, **more: str) -> Iterator[str]:
    """The address of such a stack, which is told to end at the end."""
    process = serve(model, data, *words, **more)
    try:
        yield url_of(data)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
