"""Starts training processes in some milliseconds, from a launcher that has imported torch."""

from __future__ import annotations

import contextlib
import logging
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from machine.python import python_module
from worker.launch.child import Started, start_cold
from worker.launch.command import Launch
from worker.launch.guard import STARTED
from worker.launch.program import WORKLOAD, Program, read_at_start

log = logging.getLogger(__name__)

# The launcher's own word for it; what else it says is why it cannot.
READY = b"ready"
_ANSWER_SECONDS = 10.0
_IMPORT_SECONDS = 60.0
_END_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 600.0


@dataclass(frozen=True)
class _Launcher:
    """A running launcher process; `env` is what it was started with."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    env: dict[str, str]

    def retire(self) -> None:
        """Lets it end when the children that it has started have."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)


class ForkServerClient:
    """Keeps a launcher process and starts children from it; cold wherever that does not work.

    The launcher is started in the background and started again when it ends.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._launcher: _Launcher | None = None
        self._changed = threading.Condition()
        self._starting = True
        self._stopping = False
        self._told = False
        self._retired: list[subprocess.Popen[bytes]] = []
        self._last_wish: dict[str, str] | None = None
        self._keeper = threading.Thread(target=self._keep, name="launcher", daemon=True)
        self._keeper.start()

    @property
    def launcher_pid(self) -> int | None:
        """The process id of the launcher, when it is ready."""
        launcher = self._launcher
        return launcher.process.pid if launcher else None

    def wait_until_ready(self, seconds: float) -> bool:
        """Whether the launcher is ready, after waiting for one that is starting."""
        with self._changed:
            self._changed.wait_for(lambda: self._launcher or not self._starting, seconds)
            return self._launcher is not None

    def close(self) -> None:
        """Returns when the launcher has ended, and so have the children that it has started."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._launcher is not None:
                self._launcher.retire()
        self._keeper.join()
        for process in self._retired:
            process.wait()

    def start(self, launch: Launch, output: int) -> Started:
        """Starts a guard, as `worker.launch.child.start_cold` does; raises `OSError`."""
        program = Program.of(launch)
        if program is not None and program.module == WORKLOAD:
            # It imports all that the launcher is importing, and would take no less time for it.
            self.wait_until_ready(_IMPORT_SECONDS)
        launcher = self._launcher
        if launcher is None:
            return start_cold(launch, output)
        if program is not None:
            self._note_wish(read_at_start(launch.env), launcher)
        return self._fork(launcher, launch, output) or start_cold(launch, output)

    def _fork(self, launcher: _Launcher, launch: Launch, output: int) -> Started | None:
        """A guard that the launcher has forked; None when it gives no answer.

        Then nothing was started: a guard answers before it starts the training process.
        """
        control, theirs = socket.socketpair()
        control.settimeout(_ANSWER_SECONDS)
        try:
            with theirs:
                socket.send_fds(launcher.channel, [b"fork"], [theirs.fileno(), output])
            launch.send(control)
            answered = control.recv(1) == STARTED
        except OSError:
            answered = False
        if not answered:
            log.warning("the launcher gives no answer: this job starts cold")
            control.close()
            launcher.process.kill()
            return None
        control.settimeout(None)
        return Started(control)

    def _note_wish(self, wish: dict[str, str], launcher: _Launcher) -> None:
        """Replaces a launcher that two jobs in a row could not use."""
        if wish == read_at_start(launcher.env):
            self._last_wish = None
        elif wish != self._last_wish:
            self._last_wish = wish
        else:
            log.info("the launcher starts again with the environment of the last jobs")
            others = {k: v for k, v in self._env.items() if k not in read_at_start(self._env)}
            self._env = {**others, **wish}
            launcher.retire()

    # -- the keeper's thread ----------------------------------------------------------------

    def _keep(self) -> None:
        """Starts the launcher again and again, from one thread: it dies with this thread."""
        pause = 0.0
        while not self._stopping:
            try:
                served = self._serve()
            except OSError as error:
                self._warn(str(error))
                served = False
            pause = 0.0 if served else min(2 * pause + 1.0, _LONGEST_PAUSE_SECONDS)
            with self._changed:
                self._starting = pause == 0.0
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._stopping, pause)
                self._starting = True

    def _serve(self) -> bool:
        """Starts a launcher and returns when it has ended: whether it had become ready."""
        channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = self._env
        with channel:
            with theirs:
                process = subprocess.Popen(
                    python_module("worker.launch.fork_server", str(theirs.fileno())),
                    env=env,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr,
                    start_new_session=True,
                    pass_fds=(theirs.fileno(),),
                )
            word = _receive(channel)
            if word == READY:
                self._set(_Launcher(process, channel, env))
                _receive(channel)
                self._set(None)
            elif not self._stopping:
                self._warn(word.decode() if word else "it ended")
        if word != READY:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it stays with its children
            process.wait(_END_SECONDS)
        self._retired = [each for each in (*self._retired, process) if each.poll() is None]
        return word == READY

    def _set(self, launcher: _Launcher | None) -> None:
        with self._changed:
            self._launcher = launcher
            if self._stopping and launcher is not None:
                launcher.retire()
            self._changed.notify_all()

    def _warn(self, why: str) -> None:
        if not self._told:
            log.warning("the launcher cannot start, so jobs start cold: %s", why)
        self._told = True


def _receive(channel: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return channel.recv(4096)
    return b""
