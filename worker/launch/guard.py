"""Runs a command and sees to it that nothing of it outlives the supervisor.

    python -m worker.launch.guard CONTROL

It stands between the supervisor and the training process, at the other end of the supervisor's
socket CONTROL. It passes SIGTERM on, kills the whole tree when told to or when the socket is
closed, which the kernel does for a supervisor that was killed, and says how the command ended
(128 + number for a signal). Should it be killed itself, the kernel kills the training process.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from machine.parent_death import adopt_orphans, die_with_parent
from worker.launch.command import Launch

# The guard says that it has its launch, then its process id and a new line; at the end `ENDED` and
# the exit code, a byte each.
STARTED, ENDED = b"S", b"E"
# The supervisor may say these in between.
TERMINATE, KILL = b"T", b"K"
NOT_STARTED = 127
CANNOT_START = "cannot start"  # the first words of what is printed then
_HEARD = {signal.SIGTERM, signal.SIGCHLD}


def main(argv: list[str]) -> None:
    """Runs the guard at the socket whose descriptor is `argv[0]`; does not return."""
    launch, code = guard(socket.socket(fileno=int(argv[0])))
    if launch is not None:
        execute(launch)
    os._exit(code)


def guard(
    control: socket.socket, on_fork: Callable[[], None] = lambda: None
) -> tuple[Launch | None, int]:
    """Looks after the launch that comes over `control`; returns twice, as `os.fork` does.

    In the training process it returns the launch, which it is to become. In the guard it calls
    `on_fork`, and returns no launch but the exit code when the command and all its descendants
    have ended.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take the exit codes along
    os.setsid()
    launch = Launch.receive(control)
    if launch is None:
        return None, NOT_STARTED
    adopt_orphans()
    guard_pid = os.getpid()
    control.sendall(STARTED + b"%d\n" % guard_pid)
    child = os.fork()
    if child == 0:
        control.close()
        _become_training_process(guard_pid)
        return launch, 0
    on_fork()
    code = _Attendance(control, child).until_all_ended()
    with contextlib.suppress(OSError):
        control.sendall(ENDED + bytes([code]))
    return None, code


def execute(launch: Launch) -> NoReturn:
    """Turns this process into the command."""
    try:
        os.chdir(launch.cwd)
        # Python ignores these, and what it starts would go on ignoring them.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(launch.command[0], launch.command, launch.env)  # noqa: S606 - no shell
    except OSError as error:
        why = f"{CANNOT_START} {launch.command[0]}: {error.strerror}"
        print(why, file=sys.stderr, flush=True)
    finally:
        os._exit(NOT_STARTED)


def _become_training_process(guard_pid: int) -> None:
    """Sets up the forked process, which dies with the guard."""
    os.setsid()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != guard_pid:
        os._exit(NOT_STARTED)
    # The worker's own may have been ignored from its start, by nohup or a script's `&`.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, *_HEARD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)


class _Attendance:
    """The guard's loop: signals, the supervisor's word, and children that end."""

    def __init__(self, control: socket.socket, child: int) -> None:
        self._control: socket.socket | None = control
        self._child: int | None = child
        self._code = NOT_STARTED
        # Each signal becomes a byte in a pipe, so that one place waits for everything.
        self._signals, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _HEARD:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HEARD)

    def until_all_ended(self) -> int:
        """The child's exit code, once it and all its descendants are gone.

        Orphans become children of this process; each that ends may leave further ones behind.
        """
        with contextlib.suppress(ChildProcessError):
            while True:
                while self._collect_one():
                    pass
                self._wait()
        return self._code if self._code >= 0 else 128 - self._code

    def _collect_one(self) -> bool:
        """Whether a child had ended; raises `ChildProcessError` when there is none left."""
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == self._child:
            self._code = os.waitstatus_to_exitcode(status)
            self._child = None
        if ended and self._child is None:
            _kill_children()
        return ended != 0

    def _wait(self) -> None:
        control = self._control
        sources = [self._signals] if control is None else [self._signals, control.fileno()]
        ready = select.select(sources, [], [])[0]
        if self._signals in ready and signal.SIGTERM in os.read(self._signals, 4096):
            self._terminate()
        if control is not None and control.fileno() in ready:
            self._listen(control)

    def _listen(self, control: socket.socket) -> None:
        try:
            said = control.recv(1)
        except OSError:
            said = b""
        if said == TERMINATE:
            self._terminate()
        else:
            _kill_children()
        if not said:  # the supervisor is gone
            self._control = None

    def _terminate(self) -> None:
        if self._child is not None:
            os.kill(self._child, signal.SIGTERM)


def _kill_children() -> None:
    for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
