"""Makes storage mirror a run directory, moment by moment.

A pass looks at the directory, decides what has settled (`settle.py`), sends the contents that
storage lacks (`contents.py`), and commits the moment (`timeline.py`). Until then the last moment
stays what it was, so every instant is a safe one to die at.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from monitoring.files import TEMPORARY
from monitoring.paths import RunPaths, step_of
from monitoring.storage.base import Fence, Storage, is_removed, is_service
from monitoring.storage.moments import Entry, Moment
from monitoring.storage.run_files import COPIED, is_services
from worker.files.listing import listed
from worker.files.look import Look, Seen, look, size_of
from worker.files.mirror.checkpoints import Checkpoints
from worker.files.mirror.contents import ChangedError, Contents
from worker.files.mirror.growth import is_archive, is_database
from worker.files.mirror.open_files import open_for_writing
from worker.files.mirror.sender import Sender, Sent
from worker.files.mirror.settle import Cut, Settling
from worker.files.mirror.timeline import Timeline
from worker.files.pace import Pace
from worker.files.patterns import matches
from worker.files.scratch import DIRECTORIES, WORK, Restored, Scratch

# In the working directory: what a program or a tool makes again.
_CACHES = {
    "__pycache__", ".git", ".hg", ".svn", "node_modules", ".ipynb_checkpoints", ".mypy_cache",
    ".pytest_cache", ".ruff_cache",
}  # fmt: skip
_ATTEMPTS, _LOGS = RunPaths(Path()).attempts.as_posix(), RunPaths(Path()).logs.as_posix()
_QUIET_LOOKS = 5
_SENDING_SECONDS = 1.0  # of one pass, beyond which it commits what it has sent
_BEHIND_SECONDS = 2.0  # after which folders count that are all sent


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
        pace: Pace,
    ) -> None:
        self._exclude = exclude
        self._storage = storage
        self._scratch = scratch
        self._root = scratch.run.root
        # Written here by the worker, for the program to read.
        self._copied = {path: _seen(self._root / path) for path in COPIED}
        self._fence = fence
        self._contents = Contents(storage, self._root, fence, pace, scratch.owner)
        self._contents.note_kept(restored.kept)
        for path, entry in restored.entries.items():
            if entry.kind == "file":
                at_path = entry.content not in restored.kept
                self._contents.begin(path, restored.look.get(path), entry, at_path=at_path)
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
            is_consistent=lambda path: is_database(f"{self._root}/{path}"),
            is_archive=lambda path: is_archive(self._root / path),
            stands_alone=lambda path: step_of(self._root / path) is not None,
        )  # fmt: skip
        self._sender = Sender(
            self._contents, self._checkpoints, scratch, self._files_of,
            is_open=lambda path: path in self._open,
        )  # fmt: skip
        self._behind_since: float | None = None  # there was no time to send all of a cut
        self.longest_seconds = 0.0  # of a pass with checkpoints
        self.bytes_here = 0  # of the run directory at the last look
        self._reserved: dict[Path, str] = {}
        self._unseen: dict[Path, str] = {}
        self._excluded: set[str] = set()
        here = look(self._root, self._is_left_out) if restored.given.paths else {}
        self._given = restored.given.within(here, restored.entries)
        self._unfinished: Look = {}  # what was being written when the program was killed

    def leave_out_what_was_made(self, since: Look) -> None:
        """Treats what was made or changed since a look like code: it is there in each attempt.

        Raises `OSError`.
        """
        now = look(self._root, self._is_left_out)
        made = {
            path: seen
            for path, seen in self._given.what_the_program_made(now).items()
            if seen.kind in {"file", "link"} and since.get(path) != seen
        }
        self._given = self._given.with_more(made)

    @property
    def uploaded_bytes(self) -> int:
        """The number of bytes sent to storage so far."""
        return self._contents.uploaded_bytes

    @property
    def refused(self) -> dict[Path, str]:
        """The files that were not stored in the last pass, and why."""
        return self._reserved | self._sender.refused | self.unstorable

    @property
    def unstorable(self) -> dict[Path, str]:
        """Those of them that no try can store, because of their names."""
        return self._unseen | self._sender.unstorable

    @property
    def moments(self) -> Sequence[Moment]:
        """The moments of the run that are kept, the oldest first."""
        return self._timeline.moments

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run."""
        return self._checkpoints

    def look(self) -> Look:
        """What is in the run directory now."""
        self._sender.refused, self._sender.unstorable = {}, {}
        self._reserved, self._unseen = {}, {}
        self._excluded = set()
        now = self._look()
        self.bytes_here = sum(seen.size for seen in now.values())
        return now

    def advance(self, now: Look) -> None:
        """Commits what has settled of a look, as far as it can be sent in about a second.

        The next look continues: a checkpoint must not wait until thousands of files are sent.
        """
        self._open_before = self._open
        self._open = open_for_writing(self._root) if now != self._committed else set()
        cut = self._settling.cut(now, dict(self._committed), time.monotonic())
        cut = self._without_what_may_wait(cut)
        unsent = self._commit(cut, time.monotonic() + _SENDING_SECONDS)
        if not unsent:
            self._behind_since = None
            return
        if self._behind_since is None:
            self._behind_since = time.monotonic()
        patient = time.monotonic() - self._behind_since < _BEHIND_SECONDS
        self._commit(self._settling.without(now, dict(self._committed), unsent, patient=patient))

    def _without_what_may_wait(self, cut: Cut) -> Cut:
        """The cut without new bytes that are not due, unless it has anything else that is new."""
        changed = {p for p, seen in cut.taken.items() if seen != self._committed.get(p)}
        waiting = {p for p in changed if self._contents.may_wait(p, cut.taken[p])}
        gone = self._committed.keys() - cut.taken.keys() - cut.held
        if not waiting or changed != waiting or gone:
            return cut
        taken = {path: seen for path, seen in cut.taken.items() if path not in waiting}
        return replace(cut, taken=taken, held=cut.held | waiting)

    def finish(self, now: Look, *, orderly: bool, completed: bool) -> None:
        """Commits what an ended program left, all of it if its end was `orderly`.

        Nobody goes back to an older moment of a run that is `completed`.
        """
        cut = self._settling.at_end(now, dict(self._committed), orderly=orderly)
        self._unfinished = {p: s for p, s in now.items() if p not in cut.taken and s.kind == "file"}
        self._commit(cut, closing=True)
        if completed:
            self._timeline.keep_newest()

    def not_kept(self) -> Iterator[str]:
        """What of the run directory is not in storage, with sizes, and why."""
        if self._unfinished:
            sizes = {path: seen.size for path, seen in self._unfinished.items()}
            yield f"written when the program was killed, the version before counts: {listed(sizes)}"
        if self._excluded:
            sizes = {path: size_of(self._root / path) for path in self._excluded}
            yield f"excluded by keep.exclude: {listed(sizes)}"

    def _commit(self, cut: Cut, until: float = math.inf, *, closing: bool = False) -> set[str]:
        """Sends what the cut takes, and makes it the newest moment.

        Returns the files that it had no time to send `until` then (monotonic seconds).
        """
        begun = time.monotonic()
        before = self._contents.uploaded_bytes
        last = self._timeline.entries
        self._unpoint(cut)
        try:
            sent = self._sender.send(cut, last, self._committed, until=until, closing=closing)
        except ChangedError:
            return set()  # it does not come from one time; the next pass tries again
        if sent.unsent:
            return sent.unsent
        if self._contents.uploaded_bytes != before and not closing and self._changed(cut, sent):
            return set()
        gone = {
            path: last[path].kind
            for path in last
            if path not in sent.entries or sent.entries[path].kind != last[path].kind
        }
        ours = {path for path in gone if self._checkpoints.is_ours(path)}
        if self._timeline.commit(sent.entries):
            self._checkpoints.note(sent.taken)
            self._remove(gone, ours)
            self._point(sent.entries)
            self._timeline.thin()
        self._remove_unnamed(sent.entries.keys() | cut.taken.keys() | cut.held)
        held = {p: s for p, s in self._committed.items() if p in cut.held - sent.dropped}
        self._committed = {**held, **sent.taken}
        self._checkpoints.adopt(sent.taken)
        if any(path.startswith("checkpoints/") for path in sent.taken.keys() - self._strays):
            self.longest_seconds = max(self.longest_seconds, time.monotonic() - begun)
        return set()

    def _changed(self, cut: Cut, sent: Sent) -> bool:
        """Whether anything changed while it was sent, other than by growing."""
        again = self._look()
        return any(
            again.get(path) != seen
            and not (path not in cut.taken or sent.entries[path].grows or seen.kind == "directory")
            for path, seen in sent.taken.items()
        )

    def _remove(self, gone: Mapping[str, str], ours: set[str]) -> None:
        """Removes what the newest moment lacks from the paths in storage, and strays."""
        files = {path for path, kind in gone.items() if kind == "file"}
        # An older checkpoint of this library is whole in itself: no moment needs it. A record goes
        # before its checkpoint.
        for path in sorted(files & ours, key=lambda path: not path.endswith(".json")):
            self._contents.remove([path], keep=False)
        self._contents.remove(files - ours)
        for path in files:
            self._checkpoints.forget(path)
        strays = sorted(self._strays - self._timeline.entries.keys())
        self._storage.delete_all([self._key(path) for path in strays], self._fence)
        self._strays.clear()

    def _remove_unnamed(self, here: Set[str]) -> None:
        """Removes what was sent in passes without a moment, and was gone before the next."""
        unnamed = self._contents.paths - here
        left = {path for path in unnamed if not os.path.lexists(self._root / path)}
        if left:
            self._contents.remove(left)
            self._timeline.thin()

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
        found = self._given.what_the_program_made(
            look(self._root, self._is_left_out, self._note_unseen)
        )
        # A checkpoint counts at once, so what was logged before it has to be seen after it.
        if _LOGS in found:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                found |= self._files_of(_LOGS)
        return found

    def _note_unseen(self, path: str, why: str) -> None:
        self._unseen[Path(path)] = why

    def _files_of(self, folder: str) -> Look:
        """The files and links that a folder has now, by path below the run."""
        prefix = f"{folder}/" if folder else ""
        found = look(
            self._root / folder,
            lambda name, is_folder: is_folder or self._is_left_out(prefix + name, is_folder),
        )
        here = {prefix + name: seen for name, seen in found.items()}
        return self._given.what_the_program_made(here, folder)

    def _is_left_out(self, path: str, is_folder: bool) -> bool:
        """Whether a path is no part of the run.

        Drafts of the library, the service's names, caches, and what the job excludes.
        """
        name = path.rpartition("/")[2]
        if path.startswith(f"{WORK}/") and is_folder and (
            name in _CACHES or (self._root / path / "pyvenv.cfg").is_file()
        ):  # fmt: skip
            return True
        if any(matches(path, pattern) for pattern in self._exclude):
            self._excluded.add(path)
            return True
        is_draft = name.startswith(".") and name.endswith(TEMPORARY)
        if (
            is_draft
            or name.endswith(".pt.json.next")
            or is_removed(name)
            or self._is_our_copy(path)
        ):
            return True
        if path == _ATTEMPTS or is_service(self._key(path)) or is_services(path):
            self._reserved[Path(path)] = "the service uses this name itself"
            return True
        if path in DIRECTORIES and not is_folder:
            self._reserved[Path(path)] = "the service needs a directory of this name"
            return True
        return False

    def _is_our_copy(self, path: str) -> bool:
        return path in COPIED and _seen(self._root / path) == self._copied[path]

    def _key(self, path: str) -> str:
        return f"{self._fence.run}/{path}"


def _seen(path: Path) -> Seen | None:
    try:
        return Seen.of(path)
    except OSError:
        return None
