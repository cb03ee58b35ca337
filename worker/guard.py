"""Runs a command and sees to it that nothing of it outlives the supervisor.

    python -m worker.guard SUPERVISOR_PID COMMAND [ARGUMENT ...]

It stands between the supervisor and the training process: it passes SIGTERM on, kills the whole
tree on SIGUSR1 or when the supervisor is gone, and exits as the command did (128 + number for a
signal). Should it be killed itself, the kernel kills the training process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from jobs.parent_death import adopt_orphans, die_with_parent

KILL_TREE = signal.SIGUSR1
NOT_STARTED = 127
_PARENT_DIED = signal.SIGUSR2


def main(argv: list[str]) -> int:
    """The exit code of the command in `argv[1:]`, started for the supervisor `argv[0]`."""
    supervisor, command = int(argv[0]), argv[1:]

    def kill(number: int, _frame: FrameType | None) -> None:
        # The thread that started this process may end before the supervisor does.
        if number != _PARENT_DIED or os.getppid() != supervisor:
            _kill_children()

    # Held back until there is a child to pass them on to.
    held = {signal.SIGTERM, KILL_TREE, _PARENT_DIED}
    signal.pthread_sigmask(signal.SIG_BLOCK, held)
    signal.signal(KILL_TREE, kill)
    signal.signal(_PARENT_DIED, kill)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    adopt_orphans()
    die_with_parent(_PARENT_DIED)
    if os.getppid() != supervisor:
        return 128 + signal.SIGKILL

    guard = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, guard, held)
    signal.signal(signal.SIGTERM, lambda number, _frame: _send(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
    return _collect(child)


def _become(command: list[str], guard: int, held: set[signal.Signals]) -> None:
    """Turns the forked child into the command, which dies with the guard."""
    try:
        os.setsid()
        die_with_parent(signal.SIGKILL)
        if os.getppid() == guard:
            for number in (*held, signal.SIGINT):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, held)
            os.execvp(command[0], command)  # noqa: S606 - the job's own command, without a shell
    except OSError as error:
        print(f"cannot start {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
    finally:
        os._exit(NOT_STARTED)


def _collect(child: int) -> int:
    """The child's exit code, once it and all its descendants are gone.

    Orphans become children of this process; each that ends may leave further ones behind.
    """
    code = NOT_STARTED
    running = True
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.wait()
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                running = False
            if not running:
                _kill_children()
    return code if code >= 0 else 128 - code


def _kill_children() -> None:
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        _send(int(pid), signal.SIGKILL)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
