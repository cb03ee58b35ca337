"""Sends what a cut takes to storage, as far as there is time."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from machine.ownership import opened
from machine.trees import remove_tree
from monitoring.storage.base import OvertakenError, StorageError, UnstorableError
from monitoring.storage.moments import Entry
from worker.files.look import Look, Seen, folder_of
from worker.files.mirror.checkpoints import Checkpoints
from worker.files.mirror.contents import ChangedError, Contents, is_usable
from worker.files.mirror.settle import Cut
from worker.files.scratch import Scratch

_RESTLESS_SECONDS = 2.0
# Sending what changes all the time takes at most this part of the time.
_RESTLESS_PART = 1 / 20
_COPY_SECONDS = 2.0  # for which a time is sought in which nothing changes
_MOST_FAILURES = 3
_OF_A_NAME = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})
# At most; as many as the store takes in `_BATCH_SECONDS`, for which a checkpoint may have to wait.
_BATCH_FILES = 250
_LEAST_FILES = 16
_BATCH_SECONDS = 0.25
_BATCH_BYTES = 32 << 20


@dataclass
class Sent:
    """What storage has of a cut: the entries of its moment, and what was seen of them.

    `unsent` are the files that there was no time for, `dropped` what was replaced or removed
    although the cut holds it.
    """

    entries: dict[str, Entry]
    taken: Look = field(default_factory=dict)
    unsent: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)


class Sender:
    """Sends the files of one run; its methods raise the errors of `Storage` and `OSError`.

    `files_of` says which files and links a folder has now, `is_open` whether a file was open for
    writing a moment ago.
    """

    def __init__(
        self,
        contents: Contents,
        checkpoints: Checkpoints,
        scratch: Scratch,
        files_of: Callable[[str], Look],
        is_open: Callable[[str], bool],
    ) -> None:
        self._contents = contents
        self._files_of = files_of
        self._is_open = is_open
        self._checkpoints = checkpoints
        self._root = scratch.run.root
        self._staging = scratch.staging
        self._owner = scratch.owner
        self._restless_at = -math.inf  # time.monotonic
        self._failures = 0
        self._rate = math.inf  # small files per second
        self.refused: dict[Path, str] = {}  # files that storage refused since this was cleared
        self.unstorable: dict[Path, str] = {}  # and those that no try can store, for their names

    def send(
        self, cut: Cut, last: Mapping[str, Entry], committed: Look, *, until: float, closing: bool
    ) -> Sent:
        """Stores what the cut takes, after the moment `last`, `until` then (monotonic seconds).

        Raises `ChangedError` if a file changed meanwhile, unless it is `closing`: then nobody
        writes any more, and the file stays as it was in the last moment.
        """
        self._failures = 0
        sent = Sent({path: last[path] for path in cut.held if path in last})
        sent.entries.update(
            (path, last[path]) for path in self._checkpoints.absent() if path in last
        )
        files: Look = {}
        for path, seen in cut.taken.items():
            if seen.kind == "file":
                files[path] = seen
            else:
                sent.entries[path] = self._entry(path, seen)
                sent.taken[path] = seen
        changed = {path for path, seen in files.items() if self._contents.stored(path) != seen}
        self._contents.make_room(changed)
        small: Look = {}
        for path in sorted(files, key=lambda path: self._order(path, last)):
            if path in changed and not _is_in_order(path):
                if self._is_small(path, files[path]):
                    small[path] = files[path]
                    continue
                if time.monotonic() > until:
                    sent.unsent.add(path)
                    continue
            with self._holding(path, sent, last, committed, is_held=closing):
                self._store(path, files[path], sent)
        if not closing and any(
            path.startswith("checkpoints/") for path in changed & sent.taken.keys()
        ):
            until = time.monotonic()  # a new checkpoint waits for one more batch at most
        for batch in self._batches(small):
            if time.monotonic() > until and not sent.taken.keys().isdisjoint(small):
                sent.unsent.update(batch)
            else:
                self._store_all(batch, sent, last, committed, closing=closing)
        if not sent.unsent:
            self._send_restless(cut, sent, last, committed)
        return sent

    def _store(self, path: str, seen: Seen, sent: Sent, copy: Path | None = None) -> None:
        if not is_usable(path):
            raise UnstorableError("its name is not UTF-8")
        if seen.kind != "file":
            sent.entries[path] = self._entry(path, seen)
        else:
            ours = self._checkpoints.is_ours(path)
            source = None if copy == self._root / path else copy
            sent.entries[path] = self._contents.store(path, seen, source=source, immutable=ours)
        sent.taken[path] = seen

    def _store_all(
        self, batch: Look, sent: Sent, last: Mapping[str, Entry], committed: Look, *, closing: bool
    ) -> None:
        """Stores small files together, or one by one if that fails."""
        begun = time.monotonic()
        try:
            sent.entries.update(self._contents.store_all(batch))
            sent.taken.update(batch)
            self._rate = len(batch) / max(time.monotonic() - begun, 1e-3)
        except OvertakenError:
            raise
        except (OSError, StorageError):
            for path, seen in batch.items():
                with self._holding(path, sent, last, committed, is_held=closing):
                    self._store(path, seen, sent)

    @contextlib.contextmanager
    def _holding(
        self, path: str, sent: Sent, last: Mapping[str, Entry], committed: Look, *, is_held: bool
    ) -> Iterator[None]:
        """Leaves a file as it is in the last moment if it cannot be stored.

        Raises after too many failures: then it is not the files.
        """
        try:
            yield
            return
        except (ChangedError, FileNotFoundError) as error:
            if not is_held:
                raise ChangedError(path) from error
        except OvertakenError:
            raise
        except (OSError, StorageError) as error:
            if _is_of_its_name(error):
                self.unstorable[Path(path)] = _why(error)
            else:
                self._failures += 1
                if self._failures >= _MOST_FAILURES or self._checkpoints.is_ours(path):
                    raise
                self.refused[Path(path)] = str(error)
        if path in last:
            sent.entries[path] = last[path]
            if path in committed:
                sent.taken[path] = committed[path]

    def _is_small(self, path: str, seen: Seen) -> bool:
        return is_usable(path) and self._contents.is_small(path, seen)

    def _order(self, path: str, last: Mapping[str, Entry]) -> tuple[int, str]:
        """The curve first, superseded rows before it; then checkpoints, data before records."""
        if path.startswith("logs/metrics."):
            return (1 if path == "logs/metrics.jsonl" else 0), path
        if path.startswith("checkpoints/"):
            return (3 if path.endswith(".json") else 2), path
        return (5 if path in last and last[path].grows else 4), path

    def _send_restless(
        self, cut: Cut, sent: Sent, last: Mapping[str, Entry], committed: Look
    ) -> None:
        """Stores the folders in which something is written all the time, each from one time."""
        if not cut.restless or time.monotonic() < self._restless_at:
            return
        begun = time.monotonic()
        for folder in sorted(cut.restless):
            copied = self._copy(folder, cut)
            if copied is None:
                continue
            for path in [path for path in cut.held - cut.apart if folder_of(path) == folder]:
                sent.dropped.add(path)  # unless it is there still
                sent.entries.pop(path, None)
            self._contents.make_room(copied.keys())
            for path, (seen, copy) in copied.items():
                with self._holding(path, sent, last, committed, is_held=True):
                    self._store(path, seen, sent, copy)
        took = time.monotonic() - begun
        self._restless_at = time.monotonic() + max(_RESTLESS_SECONDS, took / _RESTLESS_PART)

    def _copy(self, folder: str, cut: Cut) -> dict[str, tuple[Seen, Path]] | None:
        """The files and links of a folder, with copies of the files that are not stored yet.

        None if there was no time in which nothing changed.
        """

        def files() -> Look:
            found = self._files_of(folder)
            return {p: s for p, s in found.items() if p not in cut.taken and p not in cut.apart}

        remove_tree(self._staging)
        self._staging.mkdir()
        give_up_at = time.monotonic() + _COPY_SECONDS
        before = files()
        while True:
            copied: dict[str, tuple[Seen, Path]] = {}
            with contextlib.suppress(OSError):
                for path, seen in before.items():
                    copied[path] = seen, self._copied(path, seen, len(copied))
            after = files()
            if after == before and copied.keys() == before.keys() and self._are_true(copied):
                return copied
            if time.monotonic() > give_up_at:
                return None
            before = after

    def _copied(self, path: str, seen: Seen, number: int) -> Path:
        """A copy of a file that storage lacks; any other path as it is.

        A file that somebody has mapped may change without a change of its time.
        """
        is_known = self._contents.stored(path) == seen and not self._is_open(path)
        if seen.kind != "file" or is_known:
            return self._root / path
        copy = self._staging / str(number)
        with opened(self._root / path, self._owner) as source:
            shutil.copyfile(source, copy)
        return copy

    def _are_true(self, copied: Mapping[str, tuple[Seen, Path]]) -> bool:
        """Whether the copies of open files are still what these hold."""
        return all(
            filecmp.cmp(self._root / path, copy, shallow=False)
            for path, (_, copy) in copied.items()
            if self._is_open(path) and copy != self._root / path
        )

    def _batches(self, files: Look) -> Iterator[Look]:
        """Parts of the files, those of folders with few of them first."""
        sizes = Counter(map(folder_of, files))
        batch: Look = {}
        size = 0
        for path in sorted(files, key=lambda path: (sizes[folder_of(path)], path)):
            batch[path] = files[path]
            size += files[path].size
            most = min(max(self._rate * _BATCH_SECONDS, _LEAST_FILES), _BATCH_FILES)
            if len(batch) >= most or size >= _BATCH_BYTES:
                yield batch
                batch, size = {}, 0
        if batch:
            yield batch

    def _entry(self, path: str, seen: Seen) -> Entry:
        if seen.kind == "link":
            return Entry("link", target=seen.target)
        if seen.kind == "removed":
            return Entry("removed")
        modified = 0
        with contextlib.suppress(OSError):
            modified = (self._root / path).stat().st_mtime_ns
        return Entry("directory", 0, seen.mode, modified)


def _is_of_its_name(error: Exception) -> bool:
    """Whether a file cannot be stored because of its name alone: that is no fault of the store."""
    if isinstance(error, UnstorableError):
        return True
    return isinstance(error, OSError) and error.errno in _OF_A_NAME


def _why(error: Exception) -> str:
    """Without the name, which may be of thousands of characters."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _is_in_order(path: str) -> bool:
    """Whether a file is sent in its turn, whatever the time.

    A checkpoint of this library counts after the curve that led to it. One that is a folder counts
    with the last of its files, of which there may be thousands.
    """
    return path.startswith("logs/metrics.") or folder_of(path) == "checkpoints"
