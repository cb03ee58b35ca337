"""The other process that draws, as the training process sees it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring import drawing

logger = logging.getLogger(__name__)

_PATIENCE = 3  # times in a row that the drawing process may die before plots are given up


@dataclass(frozen=True)
class Picture:
    """A plot to draw: a function of `monitoring.figures`, its arguments and the file."""

    function: str
    path: Path
    arguments: Callable[[], dict[str, Any]]  # what takes time is done beside the training

    def draw(self) -> str | None:
        """Draw it here and now; what went wrong, if anything did."""
        return drawing.draw(self.function, self.path, self.arguments())


class Painter:
    """Has pictures drawn by a process of its own, one after the other.

    A picture replaces one of the same kind that nobody began to draw: when drawing falls
    behind, the newest wins and nothing piles up.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, Picture] = {}
        self._changed = threading.Condition()
        self._busy = False
        self._closed = False
        self._deaths = 0
        self._thread: threading.Thread | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def submit(self, picture: Picture) -> None:
        """Have a picture drawn soon."""
        with self._changed:
            self._wanted[picture.function] = picture
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="plots", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self, seconds: float | None = None) -> bool:
        """Whether everything wanted is drawn, after at most so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._wanted or self._busy), seconds)

    def close(self, seconds: float | None = None) -> bool:
        """Wait likewise and end the drawing process, which finishes what it has begun."""
        drawn = self.wait(seconds)
        with self._changed:
            self._closed = True
            self._wanted.clear()
            self._changed.notify_all()
            thread = self._thread
        if thread is not None and drawn:
            thread.join()
        return drawn

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    break
                picture = self._wanted.pop(next(iter(self._wanted)))
                self._busy = True
            try:
                error = self._draw(picture)
            except Exception as problem:
                error = f"{type(problem).__name__}: {problem}"
            if error is not None:
                logger.warning("Failed to generate %s: %s", picture.path.name, error)
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        self._end_process()

    def _draw(self, picture: Picture) -> str | None:
        if self._deaths >= _PATIENCE:
            return f"the drawing process died {_PATIENCE} times in a row"
        message = (picture.function, picture.path, picture.arguments())
        if self._process is None:
            self._process = _start_process()
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        try:
            drawing.send(self._process.stdin, message)
            error: str | None = drawing.receive(self._process.stdout)
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
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):  # what was to be written has no reader any more
                    stream.close()
        return process.wait()


def _start_process() -> subprocess.Popen[bytes]:
    package = str(Path(__file__).resolve().parent.parent)
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
        [sys.executable, "-P", "-m", "monitoring.drawing"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
