"""Children of the embedded stack: started in order, restarted when they die, ended in order, never left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from seemly.errors import ChildDied, SeemlyError

QUICK_S = 30.0  # a life shorter than this counts against the child
MAX_QUICK_DEATHS = 3
BACKOFF_S = 0.5  # doubled with every quick death
BACKOFF_MAX_S = 15.0
POLL_S = 0.05
LOG_LINES_SHOWN = 15


@dataclass(frozen=True)
class ChildSpec:
    """One process of the stack."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    death_signal: signal.Signals  # sent by the kernel when this process dies without having stopped the child
    grace_s: float  # from SIGTERM to SIGKILL
    is_up: Callable[[], bool] | None = None  # given: the others need it, start after it and end before it
    while_absent: Callable[[], None] | None = None  # called before each start and after each death


class Child:
    """A spec and the process that currently fills it."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._quick_deaths = 0
        self._is_up = False

    def tend(self, stack_was_ready: bool) -> bool:
        """Start the process when it is due, note its death; whether those that need it can go on.

        Raises:
            ChildDied: before the stack was ready, after MAX_QUICK_DEATHS lives, or one that ended over its settings.
                Once it was, there is something to keep: a child that keeps dying is started again and again, at growing
                distances.
        """
        now = time.monotonic()
        if self.process is None:
            if now >= self._start_at:
                self._start(now)
        elif self.process.poll() is not None:
            is_quick = not stack_was_ready or now - self._started_at < QUICK_S
            self._quick_deaths = self._quick_deaths + 1 if is_quick else 0
            is_hopeless = self._quick_deaths >= MAX_QUICK_DEATHS or self.process.returncode == os.EX_CONFIG
            if not stack_was_ready and is_hopeless:
                raise ChildDied(self._obituary(self.process.returncode))
            self._start_at = now + min(BACKOFF_MAX_S, BACKOFF_S * 2.0 ** min(self._quick_deaths - 1, 10))
            self.process, self._is_up = None, False
            self._note_absence()
        if not self._is_up:
            self._is_up = self.process is not None and (self.spec.is_up is None or self.spec.is_up())
        return self._is_up

    def ask_to_end(self) -> None:
        """Send SIGTERM, once: what the process has begun it may finish."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait_for_end(self, at_once: threading.Event) -> None:
        """Wait out the grace, then kill; a child that no other needs is killed already when nobody wants to wait."""
        if self.process is None:
            return
        ends = time.monotonic() + self.spec.grace_s
        while self.process.poll() is None and time.monotonic() < ends:
            if at_once.is_set() and self.spec.is_up is None:
                break
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(POLL_S)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def last_log_lines(self) -> str:
        """The end of the child's log, over all its lives in this stack."""
        try:
            lines = self.spec.log.read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])

    def _note_absence(self) -> None:
        if self.spec.while_absent is not None:
            self.spec.while_absent()

    def _start(self, now: float) -> None:
        self._note_absence()
        self.spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._started_at == 0 and self.spec.log.exists():  # of an earlier stack; one is kept
            self.spec.log.replace(self.spec.log.with_suffix(".log.1"))
        signal_number = str(int(self.spec.death_signal))
        launcher = (sys.executable, "-m", "seemly.child", str(os.getpid()), signal_number)
        with self.spec.log.open("ab") as log:
            os.fchmod(log.fileno(), 0o600)
            self.process = subprocess.Popen(  # noqa: S603
                (*launcher, *self.spec.command),
                env=dict(self.spec.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                umask=0o077,  # what it writes is its owner's alone
                start_new_session=True,  # Ctrl-C reaches this process alone, which then ends its children in order
            )
        self._started_at = now

    def _obituary(self, code: int) -> str:
        shown = f"its log, {self.spec.log}, ends:\n{self.last_log_lines() or '  (nothing)'}"
        if code == os.EX_CONFIG:
            return f"the {self.spec.name} cannot run with these settings; {shown}"
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"the {self.spec.name} {how}, {self._quick_deaths} times in a row; {shown}"


class Supervisor:
    """Tends children from one thread of its own, which lives as long as they do: to the kernel, it is their parent."""

    def __init__(self, specs: Sequence[ChildSpec]) -> None:
        self.children = tuple(Child(spec) for spec in specs)
        self.failure: SeemlyError | None = None
        self._stack_was_ready = False
        self._stopping = threading.Event()
        self._at_once = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        """Begin; returns before the children are up."""
        self._thread.start()

    def note_ready(self) -> None:
        """From now on a child's long life clears its record, and no child's death ends the stack."""
        self._stack_was_ready = True

    def hurry(self) -> None:
        """Stop, or go on stopping, without waiting for what the children have begun."""
        self._at_once.set()
        self._stopping.set()

    def stop(self) -> None:
        """End all children and wait for it. Safe to call twice."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.wait(POLL_S):
                for child in self.children:
                    if not child.tend(self._stack_was_ready):
                        break
        except SeemlyError as error:
            self.failure = error
        except OSError as error:
            self.failure = ChildDied(f"a process of the stack could not be started: {error}")
        finally:
            needed = [child for child in self.children if child.spec.is_up is not None]
            for group in ([child for child in self.children if child.spec.is_up is None], needed):
                for child in group:
                    child.ask_to_end()
                for child in group:
                    child.wait_for_end(self._at_once)
