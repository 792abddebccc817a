"""Becomes another program that does not outlive its parent: `python -m seemly.child PARENT_PID SIGNAL COMMAND…`.

On Linux the kernel is asked to send SIGNAL when the parent ends, however it ends (prctl PR_SET_PDEATHSIG, which
survives exec). It is asked from the new process, not from a `preexec_fn`, because the parent has threads. Elsewhere
nothing of the kind exists and the command simply runs: the next start then finds the orphan and replaces it.

The parent, to the kernel, is the thread that started the child: see `supervisor`.
"""

import ctypes
import os
import sys

PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Ask for the signal, then become the command."""
    parent, death_signal, command = int(arguments[0]), int(arguments[1]), arguments[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:  # it ended before the kernel was asked
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the command is the parent's own


if __name__ == "__main__":
    main(sys.argv[1:])
