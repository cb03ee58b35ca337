"""Makes storage mirror a run directory, moment by moment.

A pass looks at the directory, decides what has settled (`settle.py`), sends the contents that
storage lacks (`contents.py`), and commits the moment (`timeline.py`). Until then the last moment
stays what it was, so every instant is a safe one to die at.
"""

from __future__ import annotations

import contextlib
import fnmatch
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from monitoring.files import TEMPORARY
from monitoring.paths import step_of
from monitoring.storage.base import Fence, OvertakenError, Storage, StorageError, is_service
from monitoring.storage.moments import Entry
from monitoring.storage.run_files import is_services
from worker.files.look import Look, Seen, look
from worker.files.mirror.checkpoints import Checkpoints
from worker.files.mirror.contents import ChangedError, Contents, is_usable
from worker.files.mirror.growth import is_archive
from worker.files.mirror.open_files import open_for_writing
from worker.files.mirror.settle import Cut, Settling
from worker.files.mirror.timeline import Timeline
from worker.files.scratch import WORK, Restored, Scratch

# In the working directory: what a program or a tool makes again.
_CACHES = {
    "__pycache__", ".git", ".hg", ".svn", "node_modules", ".ipynb_checkpoints", ".mypy_cache",
    ".pytest_cache", ".ruff_cache",
}  # fmt: skip
_QUIET_LOOKS = 5
_RESTLESS_SECONDS = 10.0
_MOST_FAILURES = 3


class Mirror:
    """The mirror of one attempt's run directory in storage.

    Its methods raise `OvertakenError`, other `StorageError`s and `OSError`s; the next pass
    continues where one stopped. What matches a pattern of `exclude` is no part of the run.
    """

    def __init__(
        self,
        storage: Storage,
        scratch: Scratch,
        fence: Fence,
        restored: Restored,
        exclude: Sequence[str],
    ) -> None:
        self._exclude = exclude
        self._storage = storage
        self._scratch = scratch
        self._root = scratch.run.root
        self._fence = fence
        self._contents = Contents(storage, self._root, fence)
        self._contents.note_kept(restored.kept)
        for path, entry in restored.entries.items():
            if entry.kind == "file" and entry.content not in restored.kept:
                self._contents.begin(path, restored.look.get(path), entry)
        self._timeline = Timeline(
            storage, fence, self._contents, scratch.root / "moment", restored.moments,
            restored.moment,
        )  # fmt: skip
        self._timeline.entries = restored.entries
        # What does not lie at its path in storage is sent there again, as if it had changed.
        self._committed: Look = {
            path: replace(seen, inode=0)
            if restored.entries[path].content in restored.kept
            else seen
            for path, seen in restored.look.items()
        }
        # The folders that every run has are not new ones, which would count only as a whole.
        here = look(self._root, lambda _, is_folder: not is_folder)
        self._committed = {**here, **self._committed}
        self._links = dict(restored.links)
        self._strays = set(restored.strays)
        self._checkpoints = Checkpoints(
            storage, scratch, fence, restored, lambda path: path in self._timeline.entries
        )
        self._open_before: set[str] = set()
        self._open: set[str] = set()  # the files that were open for writing at the last look
        self._settling = Settling(
            self._checkpoints.is_complete, self._contents.grows, self._is_open,
            stands_alone=lambda path: step_of(self._root / path) is not None,
        )  # fmt: skip
        self._restless_at = -math.inf
        self.longest_seconds = 0.0  # of a pass with checkpoints
        self.bytes_here = 0  # of the run directory at the last look
        self.refused: dict[Path, str] = {}  # files that storage refused in the last pass

    @property
    def uploaded_bytes(self) -> int:
        """The number of bytes sent to storage so far."""
        return self._contents.uploaded_bytes

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return self._checkpoints

    def look(self) -> Look:
        """What is in the run directory now."""
        self.refused = {}
        now = self._look()
        self.bytes_here = sum(seen.size for seen in now.values())
        return now

    def advance(self, now: Look) -> None:
        """Commits what has settled of a look."""
        self._open_before = self._open
        self._open = open_for_writing(self._root) if now != self._committed else set()
        self._commit(self._settling.cut(now, dict(self._committed), time.monotonic()))

    def finish(self, now: Look, *, orderly: bool) -> None:
        """Commits what an ended program left, all of it if its end was `orderly`."""
        cut = self._settling.at_end(now, dict(self._committed), orderly=orderly)
        self._commit(cut, closing=True)

    def _commit(self, cut: Cut, *, closing: bool = False) -> None:
        """Sends what the cut takes, and makes it the newest moment."""
        begun = time.monotonic()
        before = self._contents.uploaded_bytes
        sent = self._send(cut, closing=closing)
        if sent is None:
            return
        entries, taken = sent
        if self._contents.uploaded_bytes != before and not closing:
            again = self._look()
            for path, seen in taken.items():
                if again.get(path) != seen and not (
                    path in cut.restless or entries[path].grows or seen.kind == "directory"
                ):
                    return  # it does not come from one time; the next pass tries again
        removed = {
            path
            for path, entry in self._timeline.entries.items()
            if path not in entries or entries[path].kind != entry.kind
        }
        ours = {path for path in removed if self._checkpoints.is_ours(path)}
        gone = {path: self._timeline.entries[path].kind for path in removed}
        if self._timeline.commit(entries):
            self._checkpoints.note(taken)
            self._remove(gone, ours)
            self._point(entries)
            self._timeline.thin()
        self._committed = {**taken, **{p: s for p, s in self._committed.items() if p in cut.held}}
        self._checkpoints.adopt(taken)
        if any(path.startswith("checkpoints/") for path in taken.keys() - self._strays):
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)

    def _send(self, cut: Cut, *, closing: bool) -> tuple[dict[str, Entry], Look] | None:
        """Stores what the cut takes: the entries of the moment, and what of the cut is in it.

        None if a file changed meanwhile.
        """
        last = self._timeline.entries
        entries = {path: last[path] for path in cut.held if path in last}
        entries |= {path: last[path] for path in self._checkpoints.absent() if path in last}
        taken: Look = {}
        failures = 0
        restless = self._restless(cut)

        self._unpoint(cut)
        for path, seen in sorted(cut.taken.items(), key=self._order):
            if seen.kind == "directory":
                modified = self._modified(path)
                entries[path], taken[path] = Entry("directory", 0, seen.mode, modified), seen
                continue
            if seen.kind == "link":
                entries[path], taken[path] = Entry("link", target=seen.target), seen
                continue
            try:
                if not is_usable(path):
                    raise StorageError("its name is not UTF-8")
                source = restless.get(path)
                if path in cut.restless and source is None:
                    raise ChangedError(path)
                entries[path] = self._contents.store(
                    path, seen, source=source, immutable=self._checkpoints.is_ours(path)
                )
                taken[path] = seen
            except (ChangedError, FileNotFoundError):
                if path not in cut.restless and not closing:
                    return None
                self._hold(path, entries, taken)
            except OvertakenError:
                raise
            except (OSError, StorageError) as error:
                failures += 1
                if failures >= _MOST_FAILURES or self._checkpoints.is_ours(path):
                    raise
                self.refused[Path(path)] = str(error)
                self._hold(path, entries, taken)
        return entries, taken

    def _order(self, item: tuple[str, Seen]) -> tuple[int, str]:
        """The curve first, superseded rows before it; then checkpoints, data before records."""
        path = item[0]
        known = self._timeline.entries.get(path)
        if path.startswith("logs/metrics."):
            return (1 if path == "logs/metrics.jsonl" else 0), path
        if path.startswith("checkpoints/"):
            return (3 if path.endswith(".json") else 2), path
        return (5 if known is not None and known.grows else 4), path

    def _hold(self, path: str, entries: dict[str, Entry], taken: Look) -> None:
        """Leaves a path as it is in the last moment."""
        if path in self._timeline.entries:
            entries[path] = self._timeline.entries[path]
            if path in self._committed:
                taken[path] = self._committed[path]

    def _restless(self, cut: Cut) -> dict[str, Path]:
        """Copies of the files that change all the time, each folder from one time."""
        if not cut.restless or time.monotonic() < self._restless_at + _RESTLESS_SECONDS:
            return {}
        self._restless_at = time.monotonic()
        staged: dict[str, Path] = {}
        shutil.rmtree(self._scratch.staging, ignore_errors=True)
        self._scratch.staging.mkdir()
        for number, path in enumerate(sorted(cut.restless)):
            copy = self._scratch.staging / str(number)
            with contextlib.suppress(OSError):
                shutil.copyfile(self._root / path, copy)
                if Seen.of(self._root / path) == cut.taken[path]:
                    staged[path] = copy
        return staged

    def _remove(self, gone: Mapping[str, str], ours: set[str]) -> None:
        """Removes what the newest moment lacks from the paths in storage, and strays."""
        for path in sorted(gone, key=lambda path: not path.endswith(".json")):
            if gone[path] == "file":
                # An older checkpoint of this library is whole in itself: no moment needs it.
                self._contents.remove(path, keep=path not in ours)
                self._checkpoints.forget(path)
        for path in sorted(self._strays - self._timeline.entries.keys()):
            self._storage.delete(self._key(path), self._fence)
        self._strays.clear()

    def _unpoint(self, cut: Cut) -> None:
        """Removes the links in storage that are no more, before anything goes below their names."""
        for path in list(self._links):
            seen = cut.taken.get(path)
            if path not in cut.held and (seen is None or seen.target != self._links[path]):
                self._storage.delete(self._key(path), self._fence)
                del self._links[path]

    def _point(self, entries: dict[str, Entry]) -> None:
        """Makes the links to neighbors in storage those of the moment."""
        wanted = {
            path: entry.target
            for path, entry in entries.items()
            if entry.kind == "link" and "/" not in entry.target and entry.target not in {".", ".."}
        }
        for path, target in wanted.items():
            if self._links.get(path) != target:
                self._storage.point(self._key(path), target, self._fence)
                self._links[path] = target

    def _is_open(self, path: str, seen: Seen, quiet_looks: int) -> bool:
        """Whether a file is being written, although it was the same in two looks."""
        # One look longer: its writer may have died with it open, and nobody knows of that yet.
        if path not in self._open | self._open_before:
            return False
        return quiet_looks < _QUIET_LOOKS or is_archive(self._root / path)

    def _look(self) -> Look:
        return look(self._root, self._is_left_out)

    def _is_left_out(self, path: str, is_folder: bool) -> bool:
        """Whether a path is no part of the run.

        Drafts of the library, the service's names, caches, and what the job excludes.
        """
        name = path.rpartition("/")[2]
        if path.startswith(f"{WORK}/") and is_folder and (
            name in _CACHES or (self._root / path / "pyvenv.cfg").is_file()
        ):  # fmt: skip
            return True
        if any(_matches(path, pattern) for pattern in self._exclude):
            return True
        if (name.startswith(".") and name.endswith(TEMPORARY)) or name.endswith(".pt.json.next"):
            return True
        if path == "attempts":
            return True
        if is_service(self._key(path)) or is_services(path):
            self.refused[Path(path)] = "the service uses this name itself"
            return True
        return False

    def _modified(self, path: str) -> int:
        with contextlib.suppress(OSError):
            return (self._root / path).stat().st_mtime_ns
        return 0

    def _key(self, path: str) -> str:
        return f"{self._fence.run}/{path}"


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern names a path: by its name, below the run, or below its work directory."""
    pattern = pattern.rstrip("/")
    names = (path, path.removeprefix(f"{WORK}/"), path.rpartition("/")[2])
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
