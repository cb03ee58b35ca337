"""Writes the output log of a run: its program's output, as a terminal would show it."""

from __future__ import annotations

import math
import time
from pathlib import Path

from monitoring.storage.base import Fence, Storage
from worker.files.scratch import Scratch

_READ_BYTES = 8 << 20
_TAIL_BYTES = 16 << 10
_REWRITTEN_SECONDS = 10.0


class OutputLog:
    """Adds an attempt's output to the run's log, its lines marked with the attempt.

    If the program rewrites a line again and again, as progress bars do, the log gets its state
    every `rewritten_seconds` and its last state. `publish` raises what `Storage.append` raises; the
    next call continues where it stopped.
    """

    def __init__(
        self,
        storage: Storage,
        scratch: Scratch,
        fence: Fence,
        *,
        rewritten_seconds: float = _REWRITTEN_SECONDS,
    ) -> None:
        self._storage = storage
        self._scratch = scratch
        self._fence = fence
        self._key = f"{fence.run}/{scratch.run.output_log.relative_to(scratch.run.root).as_posix()}"
        self._size: int | None = None  # bytes in storage; None if unknown
        self._read = 0  # bytes of the child's output that are in the log
        self._lines: list[bytes] = []
        self._last_line: str | None = None
        self._rewritten_seconds = rewritten_seconds
        self._rewritten_at = -math.inf  # time.monotonic
        self.published_bytes = 0

    def add_line(self, line: str) -> None:
        """Adds a line of the supervisor with the next `publish`."""
        text = f"[{self._fence.attempt}] --- {line}\n"
        self._lines.append(text.encode(errors="backslashreplace"))

    def close(self, line: str) -> None:
        """Adds a line of the supervisor after all output of the child."""
        self._last_line = line

    def publish(self) -> None:
        """Sends the new lines."""
        self._publish_lines()
        self._publish_output()
        if self._last_line is not None:
            self.add_line(self._last_line)
            self._last_line = None
            self._publish_lines()

    def _publish_lines(self) -> None:
        while self._lines:
            self._append(self._lines[0])
            del self._lines[0]

    def _publish_output(self) -> None:
        """Sends the child's new lines."""
        mark = b"[%d] " % self._fence.attempt
        while True:
            try:
                with self._scratch.output.open("rb") as file:
                    file.seek(self._read)
                    block = file.read(_READ_BYTES)
            except FileNotFoundError:
                return
            size = self._whole(block)
            if size == 0:
                return
            lines = block[:size].removesuffix(b"\n").split(b"\n")
            self._append(b"".join(mark + shown(line) + b"\n" for line in lines))
            self._read += size

    def _whole(self, block: bytes) -> int:
        """How many bytes of the block to send: its complete lines, with the exceptions below."""
        at_end = len(block) < _READ_BYTES
        if self._last_line is not None and at_end:
            return len(block)
        lines = block.rfind(b"\n") + 1
        if lines > 0:
            return lines
        if not at_end:
            return len(block)
        # Without the part after the last carriage return, which may be incomplete.
        rewritten = block.rfind(b"\r")
        now = time.monotonic()
        if rewritten > 0 and now >= self._rewritten_at + self._rewritten_seconds:
            self._rewritten_at = now
            return rewritten
        return 0

    def _append(self, data: bytes) -> None:
        if self._size is None:
            found = self._storage.stat(self._key)
            self._size = found.size if found else 0
        try:
            self._storage.append(self._key, self._size, data, self._fence)
        except Exception:
            self._size = None
            raise
        self._size += len(data)
        self.published_bytes += len(data)


def last_lines(output: Path) -> list[str]:
    """The lines of the last 16 KiB of a program's output; raises `OSError`."""
    with output.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL_BYTES))
        *lines, unfinished = file.read().split(b"\n")
    if unfinished:
        lines.append(unfinished)
    return [shown(line).decode(errors="replace") for line in lines]


def shown(line: bytes) -> bytes:
    """What a terminal shows of a line: the part after the last carriage return."""
    return next(filter(None, reversed(line.split(b"\r"))), b"")
