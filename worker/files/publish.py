"""Publishes the new files of an attempt, from its scratch directory to storage.

The order makes it safe to stop at any time. A pass first lists the files, then sends logs and
metrics up to their current ends, then the listed checkpoints (data before commit record before
`latest`), and finally removes the checkpoints that the child removed. So storage always has the
metrics rows of every checkpoint in it.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from monitoring.checkpoints import commit
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord, settle
from monitoring.files import TEMPORARY
from monitoring.paths import commit_record, step_of
from monitoring.storage.base import SERVICE_NAMES, Fence, OvertakenError, Storage, StorageError
from worker.files.adoptions import Adoptions
from worker.files.output import OutputLog
from worker.files.scratch import Restored, Scratch, Version

_GROWING = {".jsonl", ".log"}
_READ_BYTES = 8 << 20
_END_BYTES = 1024


class Publisher:
    """Publishes one attempt; each write carries the attempt's fencing number.

    Its methods raise `OvertakenError` when a newer attempt has the run, and other `StorageError`s
    and `OSError`s when storage cannot be written; the next pass continues where this one stopped.
    If the last pass began more than `max_pause` seconds ago, this process may have stood still:
    the pass first calls `confirm` with the `time.monotonic` of that beginning, which raises to end
    the pass, and publishes nothing while it returns False, for at most `max_pause` seconds. Once
    the run is `invalid`, only its log and the receipts are published, so that a later attempt
    resumes from what storage has.
    """

    def __init__(
        self,
        storage: Storage,
        scratch: Scratch,
        fence: Fence,
        restored: Restored,
        *,
        max_pause: float = math.inf,
        confirm: Callable[[float], bool] = lambda _: True,
        invalid: Callable[[], bool] = lambda: False,
    ) -> None:
        self._storage = storage
        self._scratch = scratch
        self._fence = fence
        self._output = OutputLog(storage, scratch, fence)
        # Files that the service writes to storage itself: a job's file would replace them.
        self._ours = {scratch.run.output_log, *(scratch.run.root / name for name in SERVICE_NAMES)}
        self._published = dict(restored.files)
        self._links = dict(restored.links)
        self._adoptions = Adoptions(scratch, restored, fence.attempt)
        self._left = dict(restored.left)  # older checkpoints, which this attempt did not fetch
        # The last bytes that storage has of each growing file.
        self._ends = {
            path: _end(path, version.size)
            for path, version in restored.files.items()
            if path.suffix in _GROWING and path.is_file()
        }
        self._closing = False
        self._max_pause = max_pause
        self._confirm = confirm
        self._pass_begun = time.monotonic()
        self._woke_at: float | None = (
            None  # since then it is unknown whether the attempt is still current
        )
        self._invalid = invalid
        self.longest_seconds = 0.0  # of a pass with checkpoints
        self._uploaded_bytes = 0
        self.refused: dict[Path, str] = {}  # files that storage refused in the last pass
        self.checkpoint = restored.checkpoint  # the newest one in storage

    @property
    def uploaded_bytes(self) -> int:
        """The number of bytes sent to storage so far."""
        return self._uploaded_bytes + self._output.published_bytes

    def add_line(self, line: str) -> None:
        """Adds a line of the supervisor to the run's output log with the next pass."""
        self._output.add_line(line)

    def close(self, line: str) -> None:
        """Ends the run's output log with a line, after all output of the child."""
        self._output.close(line)
        self._closing = True

    def publish(self) -> None:
        """One pass over the scratch directory."""
        now = time.monotonic()
        if self._woke_at is None and now - self._pass_begun > self._max_pause:
            self._woke_at = now
        if self._woke_at is not None:
            if not self._confirm(self._pass_begun) and now - self._woke_at < self._max_pause:
                raise StorageError(
                    "Redis has not confirmed yet that this attempt still has the job"
                )
            self._woke_at = None
        self._pass_begun = time.monotonic()
        self._pass()

    def _pass(self) -> None:
        start = time.monotonic()
        if self._closing:
            self._settle()
        listed = self._files()
        # Checked after listing: the listed files were written after their steps were counted.
        if self._invalid():
            self._output.publish()
            for path in listed:
                if path.parent == self._scratch.run.attempts:
                    self._publish_file(path)
            return
        checkpoints = self._scratch.run.checkpoints
        data = [path for path in listed if path.parent == checkpoints and step_of(path) is not None]
        records = sorted({commit_record(path) for path in data}.intersection(listed))
        others = sorted(set(listed).difference(data, records))
        # A checkpoint without a record does not exist yet, unless another program wrote it whole.
        whole = [path for path in data if commit_record(path) in records]
        adopted = self._adoptions.whole(set(data).difference(whole), closing=self._closing)
        # In the end also what only its program can read.
        whole = data if self._closing else whole + adopted
        run = self._scratch.run
        # Superseded rows first: a row may be in both files for a moment, but never in neither.
        curve = [path for path in (run.superseded_metrics, run.metrics) if path in others]
        self._output.publish()
        for path in (*curve, *whole, *records):
            self._publish_file(path)
        for path in adopted:
            self._publish_adoption(path)
        self._publish_links()
        self._retire(listed)
        self._retire_left()
        self.refused = {}
        for path in others:
            self._publish_or_refuse(path)
        for path in self._ours:
            if path.exists():
                self.refused[path.relative_to(self._scratch.run.root)] = (
                    "the service uses this name itself"
                )
        seconds = time.monotonic() - start
        if whole and seconds > self.longest_seconds:
            self.longest_seconds = seconds

    def _settle(self) -> None:
        """Commits a checkpoint that a killed child had written except for its record."""
        for path in self._scratch.run.checkpoints.glob("*.pt"):
            with contextlib.suppress(OSError):
                settle(path)

    def _publish_or_refuse(self, path: Path) -> None:
        """Publishes a file, or records that storage refused it, which must not stop the others."""
        try:
            self._publish_file(path)
        except OvertakenError:
            raise
        except (OSError, StorageError) as error:
            self.refused[path.relative_to(self._scratch.run.root)] = str(error)

    # -- one kind of file each --------------------------------------------------------------

    def _publish_file(self, path: Path) -> None:
        try:
            version = Version.of(path)
            before = self._published.get(path)
            if version == before:
                return
            grown = before is not None and before.inode == version.inode
            if path.suffix in _GROWING and (before is None or grown):
                self._append(path, before.size if before else 0, version)
            else:
                self._put(path, version)
                if path.suffix in _GROWING:
                    self._ends[path] = _end(path, version.size)
        except FileNotFoundError:
            return  # removed or replaced by the child just now; the next pass sees it
        self._published[path] = version
        self._left.pop(path, None)  # rewritten
        if path.suffix == ".json" and path.parent == self._scratch.run.checkpoints:
            with contextlib.suppress(CheckpointCorrupt, OSError):
                self._note_checkpoint(commit.read(path.with_suffix("")))

    def _put(self, path: Path, version: Version) -> None:
        self._storage.put(self._key(path), path, self._fence, immutable=_is_committed(path))
        self._uploaded_bytes += version.size

    def _publish_adoption(self, path: Path) -> None:
        """Stores the record of an adopted checkpoint once the checkpoint itself is stored."""
        record = self._adoptions.record(path, self._published.get(path))
        if record is not None:
            written = self._adoptions.write(path, record)
            self._storage.put(self._key(commit_record(path)), written, self._fence)
            self._adoptions.stored[path] = record
            self._note_checkpoint(record)

    def _note_checkpoint(self, found: CommitRecord) -> None:
        if self.checkpoint is None or found.time > self.checkpoint.time:
            self.checkpoint = found

    def _append(self, path: Path, offset: int, version: Version) -> None:
        key = self._key(path)
        if version.size < offset or _end(path, offset) != self._ends.get(path, b""):
            # Rewritten under the same name, as `open(path, "w")` does.
            self._put(path, version)
        else:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_ino != version.inode:
                    raise FileNotFoundError(path)  # replaced just now
                file.seek(offset)
                while data := file.read(min(_READ_BYTES, version.size - offset)):
                    self._storage.append(key, offset, data, self._fence)
                    offset += len(data)
                    self._uploaded_bytes += len(data)
        self._ends[path] = _end(path, version.size)

    def _publish_links(self) -> None:
        """Sends the links among the checkpoints whose targets are stored."""
        for link in self._scratch.run.checkpoints.glob("[!.]*"):
            if not link.is_symlink():
                continue
            target = str(link.readlink())
            if self._links.get(link) != target and link.parent / target in self._published:
                self._storage.point(self._key(link), target, self._fence)
                self._links[link] = target

    def _retire(self, listed: list[Path]) -> None:
        """Removes the checkpoints that the child removed, and no other files.

        The record goes first, so that no reader takes the file for a checkpoint.
        """
        gone = set(self._published) - set(listed)
        for path in sorted(gone, key=lambda path: path.suffix != ".json"):
            if path.is_symlink():  # a link took the place of a file
                del self._published[path]
            elif path.parent == self._scratch.run.checkpoints:
                if path in self._adoptions.stored:
                    self._storage.delete(self._key(commit_record(path)), self._fence)
                self._adoptions.forget(path)
                self._storage.delete(self._key(path), self._fence)
                del self._published[path]

    def _retire_left(self) -> None:
        """Removes the checkpoints left in storage that the child would have removed by now."""
        newest = self.checkpoint
        if not self._left or newest is None or newest.attempt != self._fence.attempt:
            return
        here = commit.committed(self._scratch.run.checkpoints)
        records = {path: record for record, path in here if commit_record(path) in self._published}
        times = sorted((r.time for r in (self._left | records).values()), reverse=True)
        for path, record in list(self._left.items()):
            if newest.keep and record.time not in times[: newest.keep]:
                for gone in (commit_record(path), path):
                    self._storage.delete(self._key(gone), self._fence)
                del self._left[path]

    # -- names ------------------------------------------------------------------------------

    def _files(self) -> list[Path]:
        """The files of the run directory, without links and the library's temporary files."""
        return [
            path
            for path in sorted(self._scratch.run.root.rglob("*"))
            if path.is_file()
            and not path.is_symlink()
            and not (path.name.startswith(".") and path.name.endswith(TEMPORARY))
            and not path.name.endswith(".pt.json.next")
            and path not in self._ours
        ]

    def _key(self, path: Path) -> str:
        return f"{self._fence.run}/{path.relative_to(self._scratch.run.root).as_posix()}"


def _is_committed(path: Path) -> bool:
    """Whether this library committed a checkpoint: then the file is replaced but never modified.

    Another program may rewrite its files in place, and a hard link would pass that to storage.
    """
    if path.suffix != ".pt" or step_of(path) is None:
        return False
    try:
        return not commit.read(path).adopted
    except (CheckpointCorrupt, OSError):
        return False


def _end(path: Path, size: int) -> bytes:
    """The last of the first `size` bytes of a file, by which it is recognized."""
    with path.open("rb") as file:
        start = max(0, size - _END_BYTES)
        file.seek(start)
        return file.read(size - start)
