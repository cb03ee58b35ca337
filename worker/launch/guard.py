"""Runs a command and ensures that none of its processes outlives the supervisor.

    python -m worker.launch.guard CONTROL

The guard is the parent of the training process and holds the other end of the supervisor's socket
CONTROL. On request it asks the process tree to stop (`worker.launch.tree`) and leaves it the time
that it needs. It kills the whole tree on request or when the socket closes, as the kernel does when
a supervisor is killed, and reports the exit code of the command (128 + number for a signal). If the
guard itself is killed, the kernel kills the training process. It also reports whether the command
ended by itself, and not in the middle of whatever it did.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from machine.control_groups import join
from machine.parent_death import adopt_orphans, die_with_parent
from machine.readable import hide, show
from worker.launch.command import Launch
from worker.launch.tree import Process, StopRequest, child_pids
from worker.losses.note import hold

# Sent by the guard: `STARTED` when it has its launch, then its process id and a newline; at the end
# `ENDED`, the exit code, and whether the end was orderly, one byte each.
STARTED, ENDED = b"S", b"E"
# Sent by the supervisor in between.
TERMINATE, KILL = b"T", b"K"
NOT_STARTED = 127
CANNOT_START = "cannot start"  # the prefix of the message that is printed then
# SIGUSR1 is sent by the worker that has the job now, in place of one that stands still: kill all.
_HANDLED = {signal.SIGTERM, signal.SIGCHLD, signal.SIGUSR1}
# Whoever sends SIGTERM to the guard sends it to the supervisor too, whose request follows at once:
# then the command's processes have had the signal. Without a request the guard passes it on.
_REQUEST_FOLLOWS_SECONDS = 1.0
# What a command that a signal has ended leaves running is killed after this time. Until then the
# same signal may reach the supervisor, which requests a stop.
_ENDED_BY_SIGNAL_SECONDS = 2.0
_POLL_SECONDS = 0.05


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
    hide()
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
        if launch.group is not None:
            join(launch.group)
        _become_training_process(guard_pid, launch)
        return launch, 0
    if launch.note is not None:
        hold(launch.note)  # until this process ends, after all others of the attempt
    on_fork()
    loop = _GuardLoop(control, child, launch.stop_signal)
    code = loop.until_all_ended()
    with contextlib.suppress(OSError):
        control.sendall(ENDED + bytes([code, loop.is_orderly]))
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


def _become_training_process(guard_pid: int, launch: Launch) -> None:
    """Sets up the forked process, which ends with the guard."""
    os.setsid()
    try:
        launch.rights.take()
    except OSError as error:
        print(f"{CANNOT_START} as user {launch.rights.uid}: {error.strerror}", file=sys.stderr,
              flush=True)  # fmt: skip
        os._exit(NOT_STARTED)
    show()  # to debuggers and profilers
    die_with_parent(signal.SIGKILL)  # after the change of the user, which undoes it
    if os.getppid() != guard_pid:
        os._exit(NOT_STARTED)
    # The worker may have been started with these ignored, by nohup or a script's `&`.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, *_HANDLED):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)


class _GuardLoop:
    """The guard's loop over signals, the supervisor's messages, and ended children."""

    def __init__(self, control: socket.socket, child: int, stop_signal: signal.Signals) -> None:
        self._control: socket.socket | None = control
        self._child: int | None = child
        self._code = NOT_STARTED
        self._stop_signal = stop_signal
        self._stop: StopRequest | None = None
        self._killed = False  # what the command had not ended itself
        self._pass_on_at: float | None = None  # time.monotonic, after SIGTERM from elsewhere
        self._kill_at: float | None = None  # time.monotonic
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
                self._act(now := time.monotonic())
                self._wait(now)
        return self._code if self._code >= 0 else 128 - self._code

    @property
    def is_orderly(self) -> bool:
        """Whether the command ended by itself: a signal that it does not handle ends it anywhere.

        A shell reports the signal that ended its program as an exit code above 128.
        """
        if self._stop is not None:
            return self._stop.is_handled and not self._killed
        return 0 <= self._code < 128

    def _collect_one(self) -> bool:
        """Whether it collected an ended child; raises `ChildProcessError` if none is left."""
        ended, status = os.waitpid(-1, os.WNOHANG)
        if ended == self._child:
            self._code = os.waitstatus_to_exitcode(status)
            self._child = None
            if self._stop is None:
                signals = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, self._stop_signal}
                by_signal = self._code in {c for n in signals for c in (-n, 128 + n)}
                self._kill_in(_ENDED_BY_SIGNAL_SECONDS if by_signal else 0.0)
        return ended != 0

    def _act(self, now: float) -> None:
        """Does what is due."""
        if self._pass_on_at is not None and now >= self._pass_on_at:
            self._request_stop(told=False)
        elif self._stop is not None:
            self._stop.proceed()
        if self._kill_at is not None and now >= self._kill_at:
            self._killed = True
            for pid in child_pids(os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _wait(self, now: float) -> None:
        """Waits for a signal, a message, the end of a process that was asked, or what is due."""
        # Once it kills, the end of each child is the occasion to kill the orphans that it left.
        due = [at for at in (self._pass_on_at, self._kill_at) if at is not None and at > now]
        sources = [self._signals]
        if self._control is not None:
            sources.append(self._control.fileno())
        if self._stop is not None:
            sources += self._stop.descriptors
            if self._stop.must_poll:
                due.append(now + _POLL_SECONDS)
        ready = select.select(sources, [], [], min(due) - now if due else None)[0]
        signals = os.read(self._signals, 4096) if self._signals in ready else b""
        if signal.SIGUSR1 in signals:
            self._kill_in(0.0)
        if signal.SIGTERM in signals and self._stop is None and self._pass_on_at is None:
            self._pass_on_at = time.monotonic() + _REQUEST_FOLLOWS_SECONDS
        if self._control is not None and self._control.fileno() in ready:
            self._listen(self._control)

    def _listen(self, control: socket.socket) -> None:
        try:
            message = control.recv(1)
        except OSError:
            message = b""
        if message == TERMINATE:
            self._request_stop(told=self._pass_on_at is not None)
        else:
            self._kill_in(0.0)
        if not message:  # the supervisor has ended
            self._control = None

    def _request_stop(self, *, told: bool) -> None:
        """Asks the tree to stop; from then on it may go on until the supervisor has it killed."""
        self._pass_on_at = None
        if self._stop is None and (self._kill_at is None or self._kill_at > time.monotonic()):
            self._kill_at = None
            told = told and self._stop_signal is signal.SIGTERM
            self._stop = StopRequest(_children, self._stop_signal, told=told)

    def _kill_in(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        self._kill_at = at if self._kill_at is None else min(self._kill_at, at)


def _children() -> list[Process]:
    return list(Process(os.getpid(), 0).children())


if __name__ == "__main__":
    main(sys.argv[1:])
