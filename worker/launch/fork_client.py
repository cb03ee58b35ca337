"""Starts training processes within milliseconds, from a fork server that has imported torch."""

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

# Sent by a fork server that is ready; any other message says why it cannot start.
READY = b"ready"
_ANSWER_SECONDS = 10.0
_IMPORT_SECONDS = 60.0
_END_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 600.0


@dataclass(frozen=True)
class _Server:
    """A running fork server; `env` is the environment that it was started with."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    env: dict[str, str]

    def retire(self) -> None:
        """Lets it end after the children that it has started."""
        with contextlib.suppress(OSError):
            self.channel.shutdown(socket.SHUT_RDWR)


class ForkServerClient:
    """Keeps a fork server and starts children from it, or cold if that is not possible.

    The fork server starts in the background, and restarts when it ends.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = dict(env)
        self._server: _Server | None = None
        self._changed = threading.Condition()
        self._starting = True
        self._stopping = False
        self._warned = False
        self._retired: list[subprocess.Popen[bytes]] = []
        self._last_environment: dict[str, str] | None = None
        self._keeper = threading.Thread(target=self._keep, name="fork-server", daemon=True)
        self._keeper.start()

    @property
    def server_pid(self) -> int | None:
        """The process id of the fork server, if it is ready."""
        server = self._server
        return server.process.pid if server else None

    def wait_until_ready(self, seconds: float) -> bool:
        """Whether the fork server is ready, after waiting for one that is starting."""
        with self._changed:
            self._changed.wait_for(lambda: self._server or not self._starting, seconds)
            return self._server is not None

    def close(self) -> None:
        """Ends the fork server; returns after it and all children that it started have ended."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._server is not None:
                self._server.retire()
        self._keeper.join()
        for process in self._retired:
            process.wait()

    def start(self, launch: Launch, output: int) -> Started:
        """Starts a guard, as `worker.launch.child.start_cold` does; raises `OSError`."""
        program = Program.of(launch)
        if program is not None and program.module == WORKLOAD:
            # It needs the imports that the fork server is making: on its own it would be no faster.
            self.wait_until_ready(_IMPORT_SECONDS)
        server = self._server
        if server is None:
            return start_cold(launch, output)
        if program is not None and self._replaces(server, read_at_start(launch.env)):
            return start_cold(launch, output)
        return self._fork(server, launch, output) or start_cold(launch, output)

    def _fork(self, server: _Server, launch: Launch, output: int) -> Started | None:
        """A guard forked by the fork server; None if it does not answer.

        In that case nothing was started: a guard answers before it starts the training process.
        """
        control, theirs = socket.socketpair()
        control.settimeout(_ANSWER_SECONDS)
        try:
            with theirs:
                socket.send_fds(server.channel, [b"fork"], [theirs.fileno(), output])
            launch.send(control)
            answered = control.recv(1) == STARTED
        except OSError:
            answered = False
        if not answered:
            log.warning("the fork server does not answer: this job starts cold")
            control.close()
            server.process.kill()
            return None
        control.settimeout(None)
        return Started(control)

    def _replaces(self, server: _Server, wanted: dict[str, str]) -> bool:
        """Replaces a fork server that two jobs in a row could not use; whether it did."""
        if wanted == read_at_start(server.env):
            self._last_environment = None
        elif wanted != self._last_environment:
            self._last_environment = wanted
        else:
            log.info("restarting the fork server with the environment of the last two jobs")
            others = {k: v for k, v in self._env.items() if k not in read_at_start(self._env)}
            self._env = {**others, **wanted}
            self._set(None)
            server.retire()
            return True
        return False

    # -- the keeper's thread ----------------------------------------------------------------

    def _keep(self) -> None:
        """Restarts the fork server from this one thread, since it dies with the thread."""
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
        """Starts a fork server, waits for its end, and returns whether it had become ready."""
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
            message = _receive(channel)
            if message == READY:
                self._set(_Server(process, channel, env))
                _receive(channel)
                self._set(None)
            elif not self._stopping:
                self._warn(message.decode() if message else "it ended")
        if message != READY:
            process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for its children
            process.wait(_END_SECONDS)
        self._retired = [each for each in (*self._retired, process) if each.poll() is None]
        return message == READY

    def _set(self, server: _Server | None) -> None:
        with self._changed:
            self._server = server
            if self._stopping and server is not None:
                server.retire()
            self._changed.notify_all()

    def _warn(self, why: str) -> None:
        if not self._warned:
            log.warning("the fork server cannot start, so jobs start cold: %s", why)
        self._warned = True


def _receive(channel: socket.socket) -> bytes:
    with contextlib.suppress(OSError):
        return channel.recv(4096)
    return b""
