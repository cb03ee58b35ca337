"""Writing a checkpoint: serialise, checksum, sync and commit, in a thread of its own."""

from __future__ import annotations

import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.utils.serialization import config as serialization

from monitoring.commit import crc32_text
from monitoring.files import temporary

_CHUNK = 4 << 20  # bytes: written while they are still in the processor's cache


class ChecksummedFile:
    """A new file that knows its size and the CRC-32 of what was written into it."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        self._crc = 0
        self.size = 0

    def __enter__(self) -> ChecksummedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def checksum(self) -> str:
        """The checksum of all that was written, as commit records spell it."""
        return crc32_text(self._crc)

    def write(self, data: bytes | memoryview) -> int:
        """Write all of it. Raises OSError."""
        view = memoryview(data)
        start = 0
        while start < len(view):
            # Both calls leave the interpreter to the training loop while they work.
            count = os.write(self._descriptor, view[start : start + _CHUNK])
            self._crc = zlib.crc32(view[start : start + count], self._crc)
            start += count
            self.size += count
        return start

    def flush(self) -> None:
        """Nothing is held back."""

    def sync(self) -> None:
        """Wait until the disk has it. Raises OSError."""
        os.fsync(self._descriptor)


class Save(threading.Thread):
    """One checkpoint on its way to the disk.

    `error` is what stopped it, if anything did. An abandoned save commits nothing, however
    late its storage wakes up.
    """

    def __init__(
        self,
        state: dict[str, Any],
        path: Path,
        *,
        ready: Callable[[], object],
        commit: Callable[[Path, ChecksummedFile], object],
    ) -> None:
        super().__init__(name=f"save {path.name}", daemon=True)
        self.path = path
        self.error: BaseException | None = None
        self.abandoned = False
        self._state = state
        self._ready = ready
        self._commit = commit
        self._file: ChecksummedFile | None = None

    def run(self) -> None:
        """Write, sync and commit; leave no temporary file behind."""
        draft = temporary(self.path)
        try:
            self._ready()
            try:
                self._write(draft)
            finally:
                draft.unlink(missing_ok=True)
        except BaseException as error:
            self.error = error
        finally:
            self._state = {}

    def stalls(self, seconds: float) -> bool:
        """Wait for the end; True when for that long not a byte moved."""
        before = -1
        while self.is_alive():
            written = self._file.size if self._file else 0
            if written == before:
                return True
            before = written
            self.join(seconds)
        return False

    def _write(self, draft: Path) -> None:
        with ChecksummedFile(draft) as self._file:
            # torch's own checksums only repeat ours, and it does not look at them on loading.
            with serialization.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
                torch.save(self._state, self._file)  # type: ignore[arg-type]
            self._file.sync()
        if not self.abandoned:
            self._commit(draft, self._file)
