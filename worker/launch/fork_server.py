"""Forks training processes from a process that has imported what they need.

    python -m worker.launch.fork_server CHANNEL

A message on the socket CHANNEL brings two descriptors, a guard's end of its supervisor's socket
and the file for the output, and forks a guard from this process; the guard forks the training
process. Nothing is ever computed here and CUDA is never asked: a child of a process that has run
one parallel operation hangs in its first, and one whose parent has as much as looked for a GPU
cannot use it. The launcher ends with the worker that holds the other end of the socket.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from machine.parent_death import die_with_parent
from machine.python import python_module
from worker.launch import guard
from worker.launch.command import Launch
from worker.launch.interpreter import Interpreter, forget, run
from worker.launch.title import set_title

READY = b"ready"
_THREADS = Path("/proc/self/task")
_THREADS_END_SECONDS = 10.0
_preloaded: list[str] = []


class NotFitError(Exception):
    """Children forked from this process might not work; the message says why."""


def preload(interpreter: Interpreter) -> None:
    """Imports what training needs; raises whatever an import raises, and `NotFitError`."""
    before = set(sys.modules)
    import matplotlib.figure  # noqa: F401, PLC0415
    import numpy  # noqa: F401, PLC0415
    import torch  # noqa: PLC0415

    import monitoring.plots.figures  # noqa: F401, PLC0415
    import spectral_gpt.train  # noqa: F401, PLC0415

    _end_threads()
    touched = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if touched or any(name.startswith("/dev/nvidia") for name in _open_files()):
        raise NotFitError("an import has initialised CUDA")
    _preloaded.extend(set(sys.modules) - before)
    interpreter.note_imports()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page of this


def _open_files() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory itself
            yield str(link.readlink())


def _end_threads() -> None:
    """Returns when this is the process's only thread; raises `NotFitError`.

    numpy's OpenBLAS starts threads at once, ends them before a fork, and starts them when needed.
    """
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    for thread in threading.enumerate():
        if thread is not threading.main_thread():
            thread.join(_THREADS_END_SECONDS)
    deadline = time.monotonic() + _THREADS_END_SECONDS
    while len(list(_THREADS.iterdir())) > 1:
        if time.monotonic() > deadline:
            raise NotFitError("an import has left a thread running")
        time.sleep(0.05)


def new_random_state() -> None:
    """Gives numpy and torch a state as random as in a new process; Python does so at each fork."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    np.random.seed()
    torch.default_generator.seed()


def end_quickly() -> None:
    """Keeps the end of a program from taking apart what the launcher has loaded.

    That would write to, and so copy, every page of it: a third of a second for nothing. What the
    program itself has made and loaded ends as ever.
    """
    libc = ctypes.CDLL(None)
    # Called in reverse, after what is registered from now on: fflush(NULL), then _exit(status).
    libc.on_exit(libc._exit, None)
    libc.__cxa_atexit(libc.fflush, None, None)


def serve(channel: socket.socket) -> Launch:
    """Forks a guard for each message; returns in a training process, and nowhere else."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel buries the guards
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
        if not message:
            _stay_with_guards()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        control, output = descriptors
        try:
            pid = os.fork()
        except OSError as error:  # the worker sees its socket closed
            print(f"launcher: cannot fork: {error}", file=sys.stderr, flush=True)
            pid = -1
        if pid == 0:
            channel.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            return _under_guard(socket.socket(fileno=control))
        os.close(control)
        os.close(output)


def _stay_with_guards() -> NoReturn:
    """Ends this process when the guards that it has forked have ended: they stay in its tree."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()
    os._exit(0)


def _under_guard(control: socket.socket) -> Launch:
    launch, code = None, 1
    try:
        title = python_module(guard.__name__)
        launch, code = guard.guard(control, on_fork=lambda: set_title(title))
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        if launch is None:
            os._exit(code)
    return launch


def main() -> None:
    """Serves until the worker is gone; in a training process, runs its program and returns."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    die_with_parent(signal.SIGKILL)
    # The launcher ends with its worker, whoever else is told to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    interpreter = Interpreter()
    # Before all others, so that it is called after them.
    atexit.register(forget, _preloaded)
    try:
        preload(interpreter)
    except Exception as error:
        channel.send(f"{type(error).__name__}: {error}".encode()[:4096])
        os._exit(1)
    channel.send(READY)
    launch = serve(channel)
    program = interpreter.program(launch)
    if program is None:
        guard.execute(launch)
    interpreter.prepare(program, launch)
    set_title(program.command)
    end_quickly()
    new_random_state()
    run(program)


if __name__ == "__main__":
    main()
