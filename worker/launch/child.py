"""Starts the training process of an attempt under a guard, stops it and reports its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from monitoring.files import open_file
from worker.launch.command import Launch
from worker.launch.guard import ENDED, KILL, STARTED, TERMINATE
from worker.launch.rights import AS_THE_WORKER, Rights

_KILLED = 128 + signal.SIGKILL
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True)
class Started:
    """A guard that has its launch: the socket to it, and its process if it is our child."""

    control: socket.socket
    process: subprocess.Popen[bytes] | None = None


Start = Callable[[Launch, int], Started]


def start_cold(launch: Launch, output: int, *, inherited: Sequence[int] = ()) -> Started:
    """Starts a new guard process; the child's output goes to the descriptor `output`.

    The guard and the child get the descriptors `inherited`: they stay open until both have ended,
    also if this process is killed. Raises `OSError`.
    """
    control, theirs = socket.socketpair()
    # -P -E -s: the job's files and environment must not affect the guard's imports.
    guard = [sys.executable, "-P", "-E", "-s", "-m", "worker.launch.guard", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            guard,
            env=launch.env,
            cwd=launch.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(theirs.fileno(), *inherited),
        )
    with contextlib.suppress(
        BrokenPipeError, ConnectionResetError
    ):  # it has ended: see its exit code
        launch.send(control)
    return Started(control, process)


class Child:
    """A started command under a guard; its output goes straight to a file.

    Another thread calls `on_exit` when it has ended.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Path,
        on_exit: Callable[[], None],
        start: Start = start_cold,
        stop_signal: signal.Signals = signal.SIGTERM,
        note: Path | None = None,
        group: Path | None = None,
        rights: Rights = AS_THE_WORKER,
    ) -> None:
        launch = Launch(list(command), dict(env), cwd, stop_signal, note, group, rights)
        with open_file(output, "ab") as file:
            started = start(launch, file.fileno())
        self._control, self._process = started.control, started.process
        self._guard: int | None = None
        self._exit_code: int | None = None
        self.is_orderly = False  # once it has ended: by itself, not in the middle of a write
        self._on_exit = on_exit
        self._ended = threading.Event()
        threading.Thread(target=self._wait, name="child-exit", daemon=True).start()

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, 128 + number for a signal; None while it runs."""
        return self._exit_code

    @property
    def guard(self) -> int | None:
        """The id of its guard, above all its processes; None before that has said it."""
        return self._guard

    def terminate(self) -> None:
        """Asks its processes to save and exit (the stop signal)."""
        self._send(TERMINATE)

    def kill(self) -> None:
        """Kills it and all its descendants."""
        self._send(KILL)

    def wait(self, seconds: float | None = None) -> bool:
        """Waits until it has ended, at most for `seconds`; whether it has."""
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Kills it and waits until it has ended."""
        self.kill()
        while not self._ended.wait(_AGAIN_SECONDS):
            self.kill()

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):  # it has ended
            self._control.sendall(message)
            # The job may have stopped its guard, which then reads no messages.
            if self._guard is not None and not self._ended.is_set():
                os.kill(self._guard, signal.SIGCONT)

    def _wait(self) -> None:
        ending = self._receive().partition(ENDED)[2]
        code = ending[0] if ending else _KILLED
        self.is_orderly = ending[1:2] == b"\1"
        if self._process is not None:
            own = self._process.wait()
            code = ending[0] if ending else 128 - own if own < 0 else own
        self._exit_code = code
        self._ended.set()
        self._on_exit()
        self._control.close()

    def _receive(self) -> bytes:
        """All messages of the guard."""
        received = b""
        with contextlib.suppress(OSError):
            while piece := self._control.recv(16):
                received += piece
                if self._guard is None and b"\n" in received:
                    self._guard = int(received.partition(b"\n")[0].removeprefix(STARTED))
        return received
