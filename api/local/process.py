"""One process of a service on this machine."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from machine.parent_death import die_with_parent
from machine.stopped import Stopped

STOP_SECONDS = 10.0
_STOPPED_SECONDS = 20.0


@dataclass
class ServiceProcess:
    """One process of the service; it writes its output to a log file of its own."""

    name: str
    command: list[str]
    env: dict[str, str]
    log: Path
    grace: float = STOP_SECONDS
    keeps: tuple[int, ...] = ()  # file descriptors that it inherits
    umask: int = -1  # of the process; -1: that of this one
    popen: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    _stopped: Stopped | None = None

    def start(self) -> None:
        """Starts the process in a session of its own, so that Ctrl-C does not reach it directly."""
        with self.log.open("ab") as file:
            self.popen = subprocess.Popen(
                self.command,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self.keeps,
                umask=self.umask,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - one thread
            )
        self.started = time.monotonic()
        self._stopped = Stopped(self.popen.pid, _STOPPED_SECONDS)

    def go_on(self) -> float | None:
        """Continues a process that has been stopped for long; for how long, if it was."""
        return self._stopped.check() if self._stopped is not None else None

    @property
    def running(self) -> bool:
        """Whether the process is running."""
        return self.popen is not None and self.popen.poll() is None

    def terminate(self) -> None:
        """Sends SIGTERM."""
        if self.popen is not None and self.running:
            self.popen.terminate()

    def wait(self) -> None:
        """Returns when the process has ended; kills it after its grace period."""
        if self.popen is None:
            return
        try:
            self.popen.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def log_tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])
