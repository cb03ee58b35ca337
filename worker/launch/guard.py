"""Runs a command and ensures that none of its processes outlives the supervisor.

    python -m worker.launch.guard CONTROL

The guard is the parent of the training process and holds the other end of the supervisor's socket
CONTROL. It forwards SIGTERM, kills the whole process tree on request or when the socket closes,
as the kernel does when a supervisor is killed, and reports the exit code of the command
(128 + number for a signal). If the guard itself is killed, the kernel kills the training process.
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

# Sent by the guard: `STARTED` when it has its launch, then its process id and a newline; at the end
# `ENDED` and the exit code, one byte each.
STARTED, ENDED = b"S", b"E"
# Sent by the supervisor in between.
TERMINATE, KILL = b"T", b"K"
NOT_STARTED = 127
CANNOT_START = "cannot start"  # the prefix of the message that is printed then
_HANDLED = {signal.SIGTERM, signal.SIGCHLD}


def main(argv: list[str]) -> None:
    """Runs the guard at the socket whose descriptor is `argv[0]`; does not return."""
    launch, code = guard(socket.socket(fileno=int(argv[0])))
    if launch is not None:
        execute(launch)
    os._exit(code)


def guard(
    control: socket.socket, on_fork: Callable[[], None] = lambda: None
) -> tuple[Launch | None, int]:
    """Guards the launch received over `control`; returns twice, as `os.fork` does.

    In the training process it returns the launch, for the caller to execute. In the guard it calls
    `on_fork`, waits until the command and all its descendants have ended, and returns None and the
    exit code.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, the exit codes would be lost
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
    code = _GuardLoop(control, child).until_all_ended()
    with contextlib.suppress(OSError):
        control.sendall(ENDED + bytes([code]))
    return None, code


def execute(launch: Launch) -> NoReturn:
    """Replaces this process with the command."""
    try:
        os.chdir(launch.cwd)
        # Python ignores these signals, and the command would inherit that.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.execvpe(launch.command[0], launch.command, launch.env)  # noqa: S606 - no shell
    except OSError as error:
        why = f"{CANNOT_START} {launch.command[0]}: {error.strerror}"
        print(why, file=sys.stderr, flush=True)
    finally:
        os._exit(NOT_STARTED)


def _become_training_process(guard_pid: int) -> None:
    """Sets up the forked process, which ends with the guard."""
    os.setsid()
    die_with_parent(signal.SIGKILL)
    if os.getppid() != guard_pid:
        os._exit(NOT_STARTED)
    # The worker may have been started with these ignored, by nohup or a script's `&`.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, *_HANDLED):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


class _GuardLoop:
    """The guard's loop over signals, the supervisor's messages, and ended children."""

    def __init__(self, control: socket.socket, child: int) -> None:
        self._control: socket.socket | None = control
        self._child: int | None = child
        self._code = NOT_STARTED
        # Each signal becomes a byte in a pipe, so that one place waits for everything.
        self._signals, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)

    def until_all_ended(self) -> int:
        """The child's exit code, once it and all its descendants have ended.

        Orphans become children of this process; each one that ends may leave new orphans.
        """
        with contextlib.suppress(ChildProcessError):
            while True:
                while self._collect_one():
                    pass
                self._wait()
        return self._code if self._code >= 0 else 128 - self._code

    def _collect_one(self) -> bool:
        """Whether it collected an ended child; raises `ChildProcessError` if none is left."""
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
            message = control.recv(1)
        except OSError:
            message = b""
        if message == TERMINATE:
            self._terminate()
        else:
            _kill_children()
        if not message:  # the supervisor has ended
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
