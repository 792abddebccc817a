import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seemly import supervisor
from seemly.supervisor import ChildSpec, Supervisor
from tests.seemly.processes import eventually, is_running

SLEEP = "import time; time.sleep(600)"
DRAIN = """
import signal, sys, time
def drain(*_):
    time.sleep(0.3)
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, drain)
print("up", flush=True)
time.sleep(600)
"""


Run = Callable[..., Supervisor]


@pytest.fixture
def run() -> Iterator[Run]:
    """Starts a supervisor over specs; ends it after the test."""
    started: list[Supervisor] = []

    def start(*specs: ChildSpec) -> Supervisor:
        running = Supervisor(specs)
        running.start()
        started.append(running)
        return running

    yield start
    for running in started:
        running.stop()


def spec(folder: Path, name: str, program: str, grace_s: float = 5.0, **more: Any) -> ChildSpec:
    return ChildSpec(
        name, (sys.executable, "-c", program), os.environ, folder / f"{name}.log", signal.SIGKILL, grace_s, **more
    )


def pid_of(running: Supervisor, number: int = 0) -> int | None:
    process = running.children[number].process
    return process.pid if process is not None and process.poll() is None else None


def test_a_child_that_is_killed_is_started_again(tmp_path: Path, run: Run) -> None:
    running = run(spec(tmp_path, "sleeper", SLEEP))
    running.note_ready()
    assert eventually(lambda: pid_of(running) is not None)
    first = pid_of(running)
    os.kill(first, signal.SIGKILL)
    assert eventually(lambda: pid_of(running) not in (None, first))
    assert running.failure is None


def test_a_child_that_keeps_dying_ends_the_stack_with_its_last_words(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", 0.01)
    sleeper = spec(tmp_path, "sleeper", SLEEP)
    running = run(sleeper, spec(tmp_path, "broken", "import sys; print('no model here'); sys.exit(4)"))
    assert eventually(lambda: running.failure is not None)
    assert "the broken ended with code 4, 3 times in a row" in str(running.failure)
    assert str(running.failure).endswith("no model here")
    assert eventually(lambda: pid_of(running) is None), "the other child was left running"


def test_once_the_stack_was_ready_no_death_ends_it(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", 0.01)
    monkeypatch.setattr(supervisor, "BACKOFF_MAX_S", 0.02)
    gate, lives = tmp_path / "gate", tmp_path / "lives"
    dying = f"import os, time; open({str(lives)!r}, 'a').write('x')\n"
    dying += f"while not os.path.exists({str(gate)!r}): time.sleep(0.01)"
    running = run(spec(tmp_path, "sleeper", SLEEP), spec(tmp_path, "dying", dying))
    assert eventually(lambda: lives.exists())
    running.note_ready()
    gate.touch()
    assert eventually(lambda: len(lives.read_text()) > 2 * supervisor.MAX_QUICK_DEATHS)
    assert running.failure is None
    assert pid_of(running) is not None


def test_absence_is_noted_before_each_start_and_after_each_death(tmp_path: Path, run: Run) -> None:
    noted: list[int | None] = []
    running = run(spec(tmp_path, "sleeper", SLEEP, while_absent=lambda: noted.append(pid_of(running))))
    running.note_ready()
    assert eventually(lambda: pid_of(running) is not None)
    os.kill(first := pid_of(running) or 0, signal.SIGKILL)
    assert eventually(lambda: pid_of(running) not in (None, first))
    assert noted == [None, None, None]


def test_whoever_is_in_a_hurry_waits_for_no_grace(tmp_path: Path, run: Run) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    running = run(spec(tmp_path, "deaf", deaf, grace_s=60))
    log = tmp_path / "deaf.log"
    assert eventually(lambda: log.exists() and "up" in log.read_text())
    began = time.monotonic()
    threading.Timer(0.3, running.hurry).start()
    running.stop()
    assert time.monotonic() - began < 5


def test_a_program_that_is_not_there_ends_the_stack(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S", 0.01)
    running = run(ChildSpec("absent", ("/no/such/program",), os.environ, tmp_path / "log", signal.SIGKILL, 1.0))
    assert eventually(lambda: running.failure is not None)
    assert "No such file" in str(running.failure)


def test_what_others_need_starts_before_them_and_ends_after_them(tmp_path: Path, run: Run) -> None:
    note = f"open({str(tmp_path / 'order')!r}, 'a').write"
    life = "import signal, sys, time\ndef end(*_):\n    time.sleep(0.2); NOTE('{0} ended '); sys.exit()\n"
    life += "signal.signal(signal.SIGTERM, end); NOTE('{0} up '); time.sleep(600)"
    life = life.replace("NOTE", note)
    up = tmp_path / "order"
    base = spec(tmp_path, "base", life.format("base"), is_up=lambda: up.exists() and "base up" in up.read_text())
    running = run(base, spec(tmp_path, "user", life.format("user")))
    assert eventually(lambda: up.exists() and "user up" in up.read_text())
    running.stop()
    assert up.read_text() == "base up user up user ended base ended "


def test_a_child_may_finish_what_it_began(tmp_path: Path, run: Run) -> None:
    running = run(spec(tmp_path, "drainer", DRAIN))
    log = tmp_path / "drainer.log"
    assert eventually(lambda: log.exists() and "up" in log.read_text())
    running.stop()
    assert log.read_text().split() == ["up", "drained"]


def test_a_child_that_will_not_end_is_killed_after_its_grace(tmp_path: Path, run: Run) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    )
    running = run(spec(tmp_path, "deaf", deaf, grace_s=0.3))
    log = tmp_path / "deaf.log"
    assert eventually(lambda: log.exists() and "up" in log.read_text())
    pid, began = pid_of(running), time.monotonic()
    running.stop()
    assert time.monotonic() - began < 5
    assert not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux' kernel ends children with their parent")
def test_no_child_outlives_a_killed_parent(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys, time
from pathlib import Path
from seemly.supervisor import ChildSpec, Supervisor
command = (sys.executable, "-c", {SLEEP!r})
supervisor = Supervisor(
    [ChildSpec(str(i), command, os.environ, Path({str(tmp_path)!r}) / "log", signal.SIGKILL, 5.0) for i in range(2)]
)
supervisor.start()
while not all(child.process for child in supervisor.children):
    time.sleep(0.01)
time.sleep(0.5)
print(*(child.process.pid for child in supervisor.children), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(is_running(pid) for pid in children)
        parent.kill()
    assert len(children) == 2
    assert eventually(lambda: not any(is_running(pid) for pid in children), timeout_s=5)


def test_the_log_of_an_earlier_stack_is_put_aside(tmp_path: Path, run: Run) -> None:
    (tmp_path / "sleeper.log").write_text("a line of an earlier run\n")
    running = run(spec(tmp_path, "sleeper", SLEEP))
    assert eventually(lambda: pid_of(running) is not None)
    assert (tmp_path / "sleeper.log.1").read_text() == "a line of an earlier run\n"
    assert (tmp_path / "sleeper.log").read_text() == ""
