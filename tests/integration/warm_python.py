"""Runs the project's programs in forked processes, without the seconds of processor time that
their imports take in a new Python.

What a program does at import is therefore not tested here; each has a test with a Python of its
own.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn

_MESSAGE_BYTES = 1 << 20


class Program:
    """A running program; what it prints is in two files."""

    def __init__(self, pid: int, answer: socket.socket, out: Path, err: Path) -> None:
        self.pid = pid
        self._answer = answer
        self._out, self._err = out, err
        self._code: int | None = None

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        """What it has printed on standard error so far."""
        return self._err.read_text()

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self._code is None and select.select([self._answer], [], [], 0)[0]:
            return self.wait(1)
        return self._code

    def wait(self, seconds: float) -> int:
        """Its exit code, negative after a signal; raises `TimeoutError`."""
        if self._code is None:
            self._answer.settimeout(seconds)
            self._code = json.loads(self._answer.recv(64))
            self._answer.close()
        return self._code

    def kill(self) -> None:
        """Ends it, unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait(10)


class WarmPython:
    """A process that has imported the project, and forks for each program."""

    def __init__(self) -> None:
        self._directory = TemporaryDirectory()
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", __file__, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                cwd="/",
            )
        self._started: list[Program] = []

    def start(
        self, *words: str, env: Mapping[str, str], cwd: Path | None = None, text: str = ""
    ) -> Program:
        """Starts `python -P -m` with these words; `text` is its standard input."""
        base = Path(self._directory.name) / str(len(self._started))
        out, err, given = (base.with_suffix(end) for end in (".out", ".err", ".in"))
        given.write_text(text)
        answer, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        message = {"words": words, "env": dict(env), "cwd": str(cwd or Path.cwd())}
        with given.open() as stdin, out.open("w") as stdout, err.open("w") as stderr, theirs:
            descriptors = [file.fileno() for file in (stdin, stdout, stderr, theirs)]
            socket.send_fds(self._channel, [json.dumps(message).encode()], descriptors)
        answer.settimeout(60)
        self._started.append(Program(json.loads(answer.recv(64)), answer, out, err))
        return self._started[-1]

    def run(
        self,
        *words: str,
        env: Mapping[str, str],
        cwd: Path | None = None,
        text: str = "",
        seconds: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `python -P -m` with these words to its end; raises `TimeoutError`."""
        program = self.start(*words, env=env, cwd=cwd, text=text)
        code = program.wait(seconds)
        return subprocess.CompletedProcess(words, code, program.stdout, program.stderr)

    def close(self) -> None:
        """Ends all programs and the process that forked them."""
        for program in self._started:
            program.kill()
        self._channel.close()
        self._server.wait(10)
        self._directory.cleanup()


def _serve(channel: socket.socket) -> None:
    import worker.app  # noqa: F401

    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 4)
        if not message:
            return
        if os.fork() == 0:
            channel.close()
            _attend(json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _attend(message: dict[str, object], descriptors: list[int]) -> NoReturn:
    """Forks a program, and sends its process id and then its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    answer = socket.socket(fileno=descriptors.pop())
    pid = os.fork()
    if pid == 0:
        answer.close()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        _run(message)
    for data in (pid, None):
        code = data or os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            answer.send(json.dumps(code).encode())
    os._exit(0)


def _run(message: dict[str, object]) -> NoReturn:
    module, *arguments = message["words"]  # type: ignore[misc]
    os.environ.clear()
    os.environ.update(message["env"])  # type: ignore[call-overload]
    os.chdir(str(message["cwd"]))
    sys.argv = [module, *arguments]
    code = 1
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as listening:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        _serve(listening)
