"""Forks training processes from a process that has already imported their libraries.

    python -m worker.launch.fork_server CHANNEL

Each message on the socket CHANNEL carries two descriptors, a guard's end of its supervisor's socket
and the output file, and makes this process fork a guard, which forks the training process. This
process never computes and never calls CUDA: the child of a process that has run a parallel
operation hangs in its own first one, and the child of a process that has merely queried for a GPU
cannot use one. The fork server ends with the worker that holds the other end of the socket.
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
from machine.readable import hide
from machine.title import set_title
from worker.launch import guard
from worker.launch.command import Launch
from worker.launch.interpreter import Interpreter, forget, run

READY = b"ready"
_THREADS = Path("/proc/self/task")
_THREADS_END_SECONDS = 10.0
_preloaded: list[str] = []


class UnsafeToForkError(Exception):
    """Children forked from this process might not work; the message says why."""


def preload(interpreter: Interpreter) -> None:
    """Imports the libraries for training; raises `UnsafeToForkError` and any import's error."""
    before = set(sys.modules)
    import matplotlib.figure  # noqa: F401, PLC0415
    import numpy  # noqa: F401, PLC0415
    import torch  # noqa: PLC0415

    import monitoring.plots.figures  # noqa: F401, PLC0415
    import spectral_gpt.train  # noqa: F401, PLC0415

    _end_threads()
    touched = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if touched or any(name.startswith("/dev/nvidia") for name in _open_files()):
        raise UnsafeToForkError("an import has initialised CUDA")
    _preloaded.extend(set(sys.modules) - before)
    interpreter.note_imports()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page


def _open_files() -> Iterator[str]:
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the directory itself
            yield str(link.readlink())


def _end_threads() -> None:
    """Waits until this is the only thread of the process; raises `UnsafeToForkError`.

    OpenBLAS in numpy starts threads at import, ends them before a fork, and restarts them on use.
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
            raise UnsafeToForkError("an import has left a thread running")
        time.sleep(0.05)


def new_random_state() -> None:
    """Reseeds numpy and torch as in a new process; Python reseeds itself at each fork."""
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    np.random.seed()
    torch.default_generator.seed()


def end_quickly() -> None:
    """Prevents the exit of a program from finalizing what the fork server has loaded.

    That would write to, and so copy, every page: a third of a second for nothing. Objects and
    modules of the program itself are finalized as usual.
    """
    libc = ctypes.CDLL(None)
    # Called in reverse, after any handler registered later: fflush(NULL), then _exit(status).
    libc.on_exit(libc._exit, None)
    libc.__cxa_atexit(libc.fflush, None, None)


def serve(channel: socket.socket) -> Launch:
    """Forks a guard for each message; returns only in a training process."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the guards
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 2)
        if not message:
            _wait_for_guards()
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        control, output = descriptors
        try:
            pid = os.fork()
        except OSError as error:  # the worker sees that its socket closes
            print(f"fork server: cannot fork: {error}", file=sys.stderr, flush=True)
            pid = -1
        if pid == 0:
            channel.close()
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
            return _under_guard(socket.socket(fileno=control))
        os.close(control)
        os.close(output)


def _wait_for_guards() -> NoReturn:
    """Ends this process after all guards that it forked: they stay in its process tree."""
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
    """Serves until the worker has ended; in a training process, runs its program and returns."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(channel.fileno(), False)
    die_with_parent(signal.SIGKILL)
    # The fork server ends with its worker, and not on a signal to the process group.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    interpreter = Interpreter()
    hide()  # the programs of jobs would find in it what those before them were given
    # Registered before all others, so that it runs after them.
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
    set_title(program.command, launch.env)
    end_quickly()
    new_random_state()
    run(program)


if __name__ == "__main__":
    main()
