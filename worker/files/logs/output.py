"""Writes the output log of a run: its program's output, as a terminal would show it.

A program may print more than anyone can store or read. What comes too fast is left out, and the log
says how much; the file on the scratch disk that takes the output keeps only what is still to be
sent; and of a long log only the newest part stays.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import threading
import time
from pathlib import Path

from monitoring.files import open_file
from monitoring.storage.base import Fence, Storage
from worker.files.pace import Pace
from worker.files.scratch import Scratch

_READ_BYTES = 8 << 20
# Enough for the tracebacks of several processes, and what a tracker prints below them.
_TAIL_BYTES = 256 << 10
_REWRITTEN_SECONDS = 10.0
_UNFINISHED_SECONDS = 2.0  # after which a line without an end is shown
# Output may come in bursts, but no faster than this for long.
_BURST_BYTES = 64 << 20
_BYTES_PER_SECOND = 1 << 20
_BACKLOG_BYTES = 32 << 20
_KEPT_BYTES = 1 << 20  # of a backlog that is too long
# The log and the part before it are each at most about this long.
_LOG_BYTES = 128 << 20
_PUNCH_HOLE_KEEP_SIZE = 3  # fallocate(2)
_MAX_FILE_BYTES = 1 << 40


class OutputLog:
    """Adds an attempt's output to the run's log, its lines marked with the attempt.

    If the program rewrites a line again and again, as progress bars do, the log gets its state
    every `rewritten_seconds` and its last state. `publish` raises what `Storage.append` raises; the
    next call continues where it stopped. `trim` may be called by another thread.
    """

    def __init__(
        self,
        storage: Storage,
        scratch: Scratch,
        fence: Fence,
        pace: Pace,
        *,
        rewritten_seconds: float = _REWRITTEN_SECONDS,
        unfinished_seconds: float = _UNFINISHED_SECONDS,
        log_bytes: int = _LOG_BYTES,
    ) -> None:
        self._storage = storage
        self._fence = fence
        self._pace = pace
        self._sent_at = -math.inf  # time.monotonic, of output
        run = scratch.run
        self._key = f"{fence.run}/{run.output_log.relative_to(run.root).as_posix()}"
        self._earlier = f"{fence.run}/{run.earlier_output_log.relative_to(run.root).as_posix()}"
        self._output = _Output(scratch.output)
        self._log_bytes = log_bytes
        self._size: int | None = None  # bytes in storage; None if unknown
        self._is_mid_line = False  # the log ends within a line
        self._lines: list[bytes] = []
        self._last_line: str | None = None
        self._rewritten_seconds = rewritten_seconds
        self._rewritten_at = -math.inf  # time.monotonic
        self._unfinished_seconds = unfinished_seconds
        # Where a line without an end begins, and since when it has been there (time.monotonic).
        self._unfinished: tuple[int, float] = (-1, math.inf)
        self._allowance = float(_BURST_BYTES)
        self._allowed_at = time.monotonic()
        self.published_bytes = 0

    @property
    def size(self) -> int | None:
        """The size of the log in storage, bytes; None if it is not known."""
        return self._size

    def add_line(self, line: str) -> None:
        """Adds a line of the supervisor with the next `publish`."""
        text = f"[{self._fence.attempt}] --- {line}\n"
        self._lines.append(text.encode(errors="backslashreplace"))

    def close(self, line: str) -> None:
        """Adds a line of the supervisor after all output of the child."""
        self._last_line = line

    def trim(self) -> None:
        """Frees the disk of output that is in the log, or comes too fast for it."""
        self._output.trim()

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
        """Sends the child's new output, as much of it as is allowed."""
        now = time.monotonic()
        self._allowance += (now - self._allowed_at) * _BYTES_PER_SECOND
        self._allowance = min(self._allowance, _BURST_BYTES)
        self._allowed_at = now
        new, stored = self._output.waiting, self._size or 0
        if self._last_line is None and not self._pace.is_due(stored, stored + new, self._sent_at):
            return
        self._sent_at = now
        while self._allowance > 0 or self._last_line is not None:
            if (left_out := self._output.left_out) > 0:
                self._append(
                    b"[%d] --- %d bytes of output are left out: it comes faster than it can be "
                    b"kept\n" % (self._fence.attempt, left_out)
                )
                self._output.left_out -= left_out
            start, block = self._output.read(_READ_BYTES)
            size, is_line = self._ready(start, block)
            if size == 0:
                return
            text = block[:size]
            end = b"\n" if is_line else b""
            self._append(self._mark(text.removesuffix(b"\n"), end))
            self._output.advance(start + size)
            self._allowance -= size

    def _mark(self, text: bytes, end: bytes) -> bytes:
        """Lines as the log shows them; the first one may continue its last line."""
        mark = b"[%d] " % self._fence.attempt
        first, *others = text.split(b"\n")
        lines = [shown(first) if self._is_mid_line else mark + shown(first)]
        lines += [mark + shown(line) for line in others]
        return b"\n".join(lines) + end

    def _ready(self, start: int, block: bytes) -> tuple[int, bool]:
        """How many bytes of the output to send, and whether they end a line of the log.

        Its complete lines; but for a line that is very long, or has no end for a while.
        """
        is_whole = len(block) == _READ_BYTES
        if not block or (self._last_line is not None and not is_whole):
            return len(block), True
        lines = block.rfind(b"\n") + 1
        if lines > 0 or is_whole:
            return lines or len(block), lines > 0
        # Without the part after the last carriage return, which may be incomplete.
        rewritten = block.rfind(b"\r")
        now = time.monotonic()
        if rewritten > 0:
            if now < self._rewritten_at + self._rewritten_seconds:
                return 0, True
            self._rewritten_at = now
            return rewritten, True
        if self._unfinished[0] != start:
            self._unfinished = start, now
        is_due = rewritten < 0 and now >= self._unfinished[1] + self._unfinished_seconds
        return (len(block) if is_due else 0), False

    def _append(self, data: bytes) -> None:
        try:
            if self._size is None:
                self._begin()
            if self._size and self._size + len(data) > self._log_bytes:
                self._storage.delete(self._earlier, self._fence)
                self._storage.keep(self._key, self._earlier, self._fence)
                self._storage.delete(self._key, self._fence)  # what is kept is not appended to
                self._size, self._is_mid_line = 0, False
                data = b"[%d] --- what came before is in %s\n" % (
                    self._fence.attempt, self._earlier.rpartition("/")[2].encode(),
                ) + data  # fmt: skip
            if self._is_mid_line and data.startswith(b"[%d] --- " % self._fence.attempt):
                data = b"\n" + data
            assert self._size is not None  # noqa: S101
            self._storage.append(self._key, self._size, data, self._fence)
        except Exception:
            self._size = None
            raise
        self._size += len(data)
        self._is_mid_line = not data.endswith(b"\n")
        self.published_bytes += len(data)

    def _begin(self) -> None:
        """Finds out where the log ends: an earlier attempt was perhaps killed within a line."""
        found = self._storage.stat(self._key)
        self._size = found.size if found else 0
        if self._size and not self.published_bytes:
            self._is_mid_line = self._storage.read(self._key, self._size - 1, 1) != b"\n"


class _Output:
    """The file that takes a program's output: what of it is still to be sent."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._sent = 0  # bytes
        self._freed = 0  # bytes that take no disk any more
        self.left_out = 0  # bytes, since the log said so

    def read(self, size: int) -> tuple[int, bytes]:
        """The next bytes to send, and where they begin."""
        with self._lock, contextlib.suppress(FileNotFoundError), open_file(self._path) as file:
            file.seek(self._sent)
            return self._sent, file.read(size)
        return self._sent, b""

    @property
    def waiting(self) -> int:
        """How many bytes are still to be sent."""
        with contextlib.suppress(FileNotFoundError):
            return max(0, self._path.stat().st_size - self._sent)
        return 0

    def advance(self, end: int) -> None:
        """Notes that all bytes up to `end` are sent."""
        with self._lock:
            self._sent = max(self._sent, end)

    def trim(self) -> None:
        """Leaves out what is too much, and frees the disk of what is sent; raises `OSError`."""
        missing = contextlib.suppress(FileNotFoundError)
        with self._lock, missing, open_file(self._path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            if size - self._sent > _BACKLOG_BYTES:
                self.left_out += size - _KEPT_BYTES - self._sent
                self._sent = size - _KEPT_BYTES
            # Of what is sent the end stays: it may say why the program failed.
            end = min(self._sent, size - _KEPT_BYTES)
            if end - self._freed < _BACKLOG_BYTES:
                return
            if size < _MAX_FILE_BYTES and _punch_hole(file.fileno(), self._freed, end):
                self._freed = end
            else:
                self.left_out += size - self._sent
                file.truncate(0)
                self._sent = self._freed = 0


def _punch_hole(file: int, start: int, end: int) -> bool:
    """Frees the disk of a part of a file; whether its file system can."""
    fallocate = getattr(ctypes.CDLL(None, use_errno=True), "fallocate", None)  # Linux only
    if fallocate is None:
        return False
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    return bool(fallocate(file, _PUNCH_HOLE_KEEP_SIZE, start, end - start) == 0)


def written(output: Path) -> int:
    """How many bytes of output there are so far."""
    with contextlib.suppress(FileNotFoundError):
        return output.stat().st_size
    return 0


def last_lines(output: Path, start: int = 0) -> list[str]:
    """The lines of the last 256 KiB of a program's output, from byte `start` on.

    Raises `OSError`.
    """
    try:
        with open_file(output) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(start, end - _TAIL_BYTES))
            *lines, unfinished = file.read(_TAIL_BYTES).split(b"\n")
    except FileNotFoundError:  # the program has put something else in its place
        return []
    if unfinished:
        lines.append(unfinished)
    return [shown(line).decode(errors="replace") for line in lines]


def shown(line: bytes) -> bytes:
    """What a terminal shows of a line: the part after the last carriage return."""
    return next(filter(None, reversed(line.split(b"\r"))), b"")
