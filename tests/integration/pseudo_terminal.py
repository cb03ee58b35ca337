"""Runs the command line on a pseudo-terminal, as a person sees it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping
from typing import Self


class Terminal:
    """A command on a terminal of 100 by 30 characters, and all that it has written there."""

    def __init__(self, words: list[str], env: Mapping[str, str]) -> None:
        self._controller, terminal = os.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "api.cli", *words], stdin=terminal, stdout=terminal,
            stderr=terminal, start_new_session=True,
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **env},
        )  # fmt: skip
        os.close(terminal)
        self.written = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait(20)
        os.close(self._controller)

    def read(self, seconds: float = 0.1) -> str:
        """What it has written so far, after a moment."""
        with contextlib.suppress(OSError):  # it has ended
            while select.select([self._controller], [], [], seconds)[0]:
                block = os.read(self._controller, 1 << 16)
                if not block:
                    break
                self.written += block.decode(errors="replace")
        return self.written

    def until(self, text: str, seconds: float = 60) -> str:
        """What it has written when a text is there; fails without it."""
        deadline = time.monotonic() + seconds
        while text not in self.read():
            assert time.monotonic() < deadline, f"no {text!r} in {self.written!r}"
            assert self._process.poll() is None or text in self.read(), self.written
        return self.written

    def type(self, text: str) -> None:
        """Types a text."""
        os.write(self._controller, text.encode())

    def interrupt(self) -> None:
        """Presses Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, seconds: float = 60) -> int:
        """The exit code."""
        deadline = time.monotonic() + seconds
        while self._process.poll() is None:
            self.read()
            assert time.monotonic() < deadline, self.written
        self.read()
        return self._process.wait()


@contextlib.contextmanager
def on_a_terminal(*words: str, **env: str) -> Iterator[Terminal]:
    """The command line with these words."""
    with Terminal(list(words), env) as terminal:
        yield terminal
