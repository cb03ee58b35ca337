"""Writing a checkpoint in a thread: serialize, checksum, sync and commit."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config as serialization

from monitoring.checkpoints.file import BLOCK, ChecksummedFile
from monitoring.checkpoints.loss_history import PICKLE
from monitoring.files import temporary

logger = logging.getLogger(__name__)

_AT_EXIT = 60.0  # seconds without progress after which the program exits anyway


class Save:
    """The save of one checkpoint.

    A save that `reads_live` weights holds the loop. A `direct` one bypasses the page cache.
    `error` is the exception that ended it, if any. An abandoned save never commits, even if its
    storage responds later.
    """

    def __init__(
        self,
        path: Path,
        state: dict[str, Any],
        ready: Callable[[], object],
        commit: Callable[[Path, ChecksummedFile], object],
        *,
        direct: bool = False,
        reads_live: bool = False,
    ) -> None:
        self.path = path
        self.error: BaseException | None = None
        self.abandoned = False
        self.stalled = False
        self.in_the_way = False  # whether later saves were skipped for it
        self.reads_live = reads_live
        self._state = state
        self._ready = ready
        self._commit = commit
        self._direct = direct
        self._file: ChecksummedFile | None = None
        self._done = threading.Event()
        self._process = os.getpid()

    def start(self) -> None:
        """Run in a new thread, or in this one if no thread can be started."""
        _under_way.add(self)
        try:
            threading.Thread(target=self.run, name="checkpoint", daemon=True).start()
        except RuntimeError:
            self.run()

    @property
    def is_ours(self) -> bool:
        """Whether it belongs to this process, and not to the one that this was forked from."""
        return self._process == os.getpid()

    @property
    def done(self) -> bool:
        """Whether it has ended, with or without an error."""
        return self._done.is_set()

    def wait(self, stall_seconds: float) -> bool:
        """Wait for the end; False, and `stalled` set, if no byte was written for that long.

        After True, nothing more is logged when the program exits.
        """
        before = -1
        while not self._done.wait(0 if before < 0 else stall_seconds):
            written = self._file.size if self._file else 0
            if written == before:
                self.stalled = True
                return False
            before = written
        _under_way.discard(self)
        return True

    def run(self) -> None:
        """Write, sync and commit; remove the temporary file."""
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
            self._done.set()

    def _write(self, draft: Path) -> None:
        settings: dict[str, Any] = {
            # torch ignores its own checksums when it loads, and the record has ours.
            "save.compute_crc32": False,
            **({"save.storage_alignment": BLOCK} if self._direct else {}),
        }
        # The storage may have been unmounted or emptied since the run began.
        draft.parent.mkdir(parents=True, exist_ok=True)
        with ChecksummedFile(draft, direct=self._direct) as self._file:
            try:
                with serialization.patch(settings):  # type: ignore[attr-defined]
                    torch.save(self._state, self._file, pickle_module=PICKLE)  # type: ignore[arg-type]
            except RuntimeError as failure:
                # torch reports an error of its own in place of the error of the disk.
                raise self._file.error or failure from None
            self._file.sync()
        if not self.abandoned:
            self._commit(draft, self._file)


_under_way: set[Save] = set()


@atexit.register
def _finish() -> None:
    """Wait at exit for the last checkpoints, and log a warning for each that failed."""
    for save in [save for save in _under_way if save.is_ours]:
        if not save.wait(_AT_EXIT):
            logger.warning("Checkpoint %s was not finished when the program exited", save.path)
        elif save.error is not None:
            logger.warning("Checkpoint %s skipped: %r", save.path, save.error)
