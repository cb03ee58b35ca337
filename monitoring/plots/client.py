"""The client of the drawing process, in the training process."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.plots import server

logger = logging.getLogger(__name__)

_PATIENCE = 3  # consecutive deaths of the drawing process before plots are given up
_CLOSING = 60.0  # default limit of `close`, in seconds
_AT_EXIT = 20.0  # seconds that the last plots may take at exit
_ENDING = 10.0  # seconds that the idle drawing process may take to end

_at_work: set[PlotClient] = set()  # clients with a running thread
_exiting = False
_shared: PlotClient | None = None
_sharing = threading.Lock()


@dataclass(frozen=True)
class Picture:
    """A plot to draw: a function of `monitoring.plots.figures`, its arguments and the file."""

    function: str
    path: Path
    arguments: Callable[[], dict[str, Any]]  # called outside the training loop


class PlotClient:
    """Sends pictures to a drawing process, one after the other, until it is closed.

    With `newest_only` a picture replaces a waiting one of the same kind, so no queue builds up when
    drawing falls behind. Pictures that wait when the program exits are still drawn. After a fork
    the pictures and the process belong to the parent.
    """

    def __init__(self, *, newest_only: bool = True) -> None:
        self._newest_only = newest_only
        self._wanted: dict[str | Path, Picture] = {}
        self._changed = threading.Condition()
        self._begun: Picture | None = None
        self._retired = False  # end once nothing is wanted
        self._closed = False  # end
        self._deaths = 0
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def usable(self) -> bool:
        """Whether it accepts pictures: it is not closed and belongs to this process."""
        return not (self._closed or self._retired)

    def submit(self, picture: Picture) -> None:
        """Queue a picture; while the program exits, draw it before returning."""
        with self._changed:
            self._wanted[picture.function if self._newest_only else picture.path] = picture
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="plots", daemon=True)
                thread.start()
                self._thread = thread
                _at_work.add(self)
            self._changed.notify_all()
        if _exiting:
            self.close(_AT_EXIT)

    def wait(
        self, seconds: float | None = None, pictures: Collection[Picture] | None = None
    ) -> bool:
        """Wait until these pictures (None: all) are drawn; return whether they are."""

        def drawn() -> bool:
            left = [picture for picture in (self._begun, *self._wanted.values()) if picture]
            return not left if pictures is None else not any(p in left for p in pictures)

        with self._changed:
            return self._changed.wait_for(drawn, seconds)

    def retire(self) -> None:
        """End once everything queued is drawn; return at once."""
        with self._changed:
            self._retired = True
            self._changed.notify_all()

    def close(self, seconds: float = _CLOSING) -> bool:
        """Wait at most `seconds` for everything queued, then end; return whether all is drawn.

        What is not drawn by then is dropped with a warning, and the drawing process is killed.
        """
        drawn = self.wait(seconds)
        with self._changed:
            lost = [picture for picture in (self._begun, *self._wanted.values()) if picture]
            self._closed = True
            self._wanted.clear()
            self._changed.notify_all()
            thread, process = self._thread, self._process
        if lost:
            names = ", ".join(str(picture.path) for picture in lost)
            logger.warning("Dropped plots that were not drawn within %g s: %s", seconds, names)
            if process is not None:
                process.kill()
        if thread is not None and thread is not threading.current_thread():
            thread.join(2 * _ENDING)
        return drawn

    def forget(self) -> None:
        """In a forked child, leave thread, process and pictures to the parent."""
        self._changed = threading.Condition()
        self._wanted, self._begun, self._thread = {}, None, None
        self._closed = True
        process, self._process = self._process, None
        if process is not None:
            _close(process)  # else the process would outlive the parent
            process.returncode = 0  # it is not a child of this process

    def _work(self) -> None:
        try:
            while (picture := self._next()) is not None:
                try:
                    error = self._draw(picture)
                except Exception as problem:
                    error = f"{type(problem).__name__}: {problem}"
                # After `close`, its warning names the dropped plots.
                if error is not None and not self._closed:
                    logger.warning("Failed to generate %s: %s", picture.path.name, error)
                del picture, error  # an idle thread keeps nothing alive
                with self._changed:
                    self._begun = None
                    self._changed.notify_all()
            self._end_process()
        finally:
            _at_work.discard(self)

    def _next(self) -> Picture | None:
        """Wait for the next picture to draw; None to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._wanted or self._closed or self._retired)
            if self._closed or not self._wanted:
                self._closed = True
                return None
            self._begun = self._wanted.pop(next(iter(self._wanted)))
            return self._begun

    def _draw(self, picture: Picture) -> str | None:
        if self._deaths >= _PATIENCE:
            return f"the drawing process died {_PATIENCE} times in a row"
        message = (picture.function, picture.path, picture.arguments())
        if self._process is None:
            self._process = _start_process()
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            server.send(self._process.stdin, message)
            error: str | None = server.receive(self._process.stdout)
        except (EOFError, OSError):
            self._deaths += 1
            code = self._end_process()
            return f"the drawing process ended with code {code}"
        self._deaths = 0
        return error

    def _end_process(self) -> int | None:
        process, self._process = self._process, None
        if process is None:
            return None
        _close(process)
        try:
            return process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            # A dead disk may block it in the kernel.
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_ENDING)
            return None


def shared_client() -> PlotClient:
    """The client that all managers without `background` share in this process."""
    global _shared  # noqa: PLW0603
    with _sharing:
        if _shared is None or not _shared.usable:
            _shared = PlotClient(newest_only=False)
        return _shared


def _start_process() -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parents[2])
    search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    environment = {
        **os.environ,
        "PYTHONPATH": search,
        "MPLBACKEND": "Agg",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "monitoring.plots.server"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # a fork would copy a buffer with half a message
        env=environment,
    )


def _close(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(OSError):
                stream.close()


def _finish_at_exit() -> None:
    """Draw everything queued. What later exit handlers request is drawn at once."""
    global _exiting  # noqa: PLW0603
    _exiting = True
    end = time.monotonic() + _AT_EXIT
    for client in list(_at_work):
        client.close(max(1.0, end - time.monotonic()))


def _forget_all() -> None:
    global _shared, _sharing
    _shared, _sharing = None, threading.Lock()
    for client in list(_at_work):
        client.forget()
    _at_work.clear()


# Not one handler for each manager: it would keep a dropped manager alive.
atexit.register(_finish_at_exit)
os.register_at_fork(after_in_child=_forget_all)
