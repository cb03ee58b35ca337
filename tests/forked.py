"""Runs a program in a process forked from the tests, without the seconds that its imports take.

What a program does at import, and in exit handlers, is therefore not tested here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from tempfile import TemporaryFile
from types import TracebackType
from typing import NoReturn, Self

import torch


class Forked:
    """A running program, which returns its exit code or raises SystemExit; ended with the block."""

    def __init__(self, program: Callable[[], object]) -> None:
        # Appended to, so that the offset at which the parent reads moves no write of the child.
        self._out, self._err = TemporaryFile("a+b"), TemporaryFile("a+b")  # noqa: SIM115
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run(program, self._out.fileno(), self._err.fileno())

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return os.pread(self._out.fileno(), 1 << 20, 0).decode()

    @property
    def stderr(self) -> str:
        """What it has printed on standard error so far."""
        return os.pread(self._err.fileno(), 1 << 20, 0).decode()

    def poll(self) -> int | None:
        """Its exit code, negative after a signal; None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
        return self._code

    def wait(self, seconds: float = 60) -> int:
        """Its exit code; raises `TimeoutError`."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it does not end; it has printed {self.stdout}{self.stderr}")
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        self.send_signal(signal.SIGKILL)
        self.wait()
        self._out.close()
        self._err.close()


def _run(program: Callable[[], object], out: int, err: int) -> NoReturn:
    code = 1
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        logging.root.handlers.clear()  # those of pytest: without any, warnings go to stderr
        torch.set_num_threads(1)  # those of the parent are not there
        code = int(program() or 0)  # type: ignore[call-overload]
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
