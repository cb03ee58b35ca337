"""Publishes an attempt: the moments of its run, its output log and its receipts.

The log, the rows that the service writes and the receipts are the service's own files: they belong
to no moment, and go after it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from monitoring.checkpoints.commit import CommitRecord
from monitoring.paths import RunPaths
from monitoring.storage.base import Fence, OvertakenError, Storage, StorageError
from monitoring.storage.moments import Moment
from worker.files.listing import short
from worker.files.logs.output import OutputLog
from worker.files.logs.output_times import OutputTimes
from worker.files.logs.row_file import RowFile
from worker.files.look import Look
from worker.files.mirror.mirror import Mirror
from worker.files.own_files import OwnFiles
from worker.files.pace import Pace
from worker.files.scratch import Restored, Scratch

# The processor time of a look takes at most about this part of the time between two looks.
_REST = 10
_MAX_REST_SECONDS = 10.0
_PASS_SECONDS = 1.0  # between two passes at least


class Publisher:
    """Publishes one attempt; each write carries the attempt's fencing number.

    Its methods raise `OvertakenError` when a newer attempt has the run, and other `StorageError`s
    and `OSError`s when storage cannot be written; the next pass continues where this one stopped.
    If the last pass began more than `max_pause` seconds ago, this process may have stood still:
    the pass first calls `confirm` with the `time.monotonic` of that beginning, which raises to end
    the pass, and publishes nothing while it returns False, for at most `max_pause` seconds. Once
    the run is `invalid`, only its log and the receipts are published, so that a later attempt
    resumes from what storage has. What matches a pattern of `exclude` is no part of the run.
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
        exclude: Sequence[str] = (),
        own: OwnFiles | None = None,
    ) -> None:
        """`own`: what the service has to say of the run."""
        self._own = own or OwnFiles(storage, fence)
        self._scratch = scratch
        self._fence = fence
        self._pace = Pace(appends_in_place=storage.appends_in_place)
        self._mirror = Mirror(storage, scratch, fence, restored, exclude, self._pace)
        self._output = OutputLog(storage, scratch, fence, self._pace)
        folder, paths = scratch.rows, RunPaths(Path())
        times = RowFile(storage, folder, paths.output_times, fence, self._pace)
        self._times = OutputTimes(times)
        self.curves = RowFile(storage, folder, paths.read_metrics, fence, self._pace)
        self.system = RowFile(storage, folder, paths.system, fence, self._pace)
        self.seen: Look = {}  # at the last look
        self._is_gone = False  # the run directory
        self._closing = False
        self._held_back = False
        self._before: Look = {}  # at the call of `hold_back`
        self._next_look_at = -math.inf  # time.monotonic
        self._orderly = True
        self._completed = False
        self._place = scratch.root.stat().st_ino
        self._max_pause = max_pause
        self._confirm = confirm
        self._pass_begun = time.monotonic()
        self._woke_at: float | None = (
            None  # since then it is unknown whether the attempt is still current
        )
        self._invalid = invalid

    @property
    def uploaded_bytes(self) -> int:
        """The number of bytes sent to storage so far."""
        own = (self._output, self._times, self.curves, self.system)
        return self._mirror.uploaded_bytes + sum(one.published_bytes for one in own)

    @property
    def longest_seconds(self) -> float:
        """The longest time of a pass with checkpoints, seconds."""
        return self._mirror.longest_seconds

    @property
    def bytes_here(self) -> int:
        """The size of the run directory at the last look, bytes."""
        return self._mirror.bytes_here

    @property
    def refused(self) -> dict[Path, str]:
        """The files that storage refused in the last pass, and why."""
        return self._mirror.refused

    @property
    def unstorable(self) -> dict[Path, str]:
        """Those of them that no try can store, because of their names."""
        return self._mirror.unstorable

    @property
    def is_in_place(self) -> bool:
        """Whether the attempt has its directory: a newer one on this machine moves it aside."""
        try:
            return self._scratch.root.stat().st_ino == self._place
        except FileNotFoundError:
            return False

    def not_kept(self) -> list[str]:
        """What of an ended program's files is not in storage, with sizes, and why."""
        refused = (f"{short(path)}: {error}" for path, error in self.refused.items())
        gone = ["what changed before its run directory was removed"] if self._is_gone else []
        return [*gone, *self._mirror.not_kept(), *refused]

    @property
    def moments(self) -> Sequence[Moment]:
        """The moments of the run that are kept, the oldest first."""
        return self._mirror.moments

    @property
    def checkpoint(self) -> CommitRecord | None:
        """The newest checkpoint in storage."""
        return self._mirror.checkpoints.newest

    def add_line(self, line: str) -> None:
        """Adds a line of the supervisor to the run's output log with the next pass."""
        self._output.add_line(line)

    def look(self) -> Look:
        """What is in the run directory now; not while another thread publishes."""
        self.seen = self._mirror.look()
        return self.seen

    def note_followed(self, is_followed: bool) -> None:
        """Notes whether somebody follows the run: then what grows is sent at once."""
        self._pace.is_followed = is_followed

    def trim_output(self) -> None:
        """Frees the disk of output that is in the log, or comes too fast; any thread may call it.

        Raises `OSError`.
        """
        self._output.trim()

    def hold_back(self) -> None:
        """Publishes the log and the receipts alone, until `begin` says what the program has made.

        Before its first call of `publish`.
        """
        self._held_back = True
        self._before = self.look()

    def begin(self) -> None:
        """Ends that: what was made meanwhile is not the program's, and each attempt makes it.

        Raises `OSError`.
        """
        if self._held_back:
            self._mirror.leave_out_what_was_made(since=self._before)
            self._held_back = False

    def close(self, line: str, *, orderly: bool = True, completed: bool = False) -> None:
        """Ends the run's output log with a line, after all output of the child.

        What an `orderly` program left counts as it is; one that was killed may have been writing.
        Of a run that is `completed`, older moments are removed.
        """
        self._scratch.release_reserve()
        self._output.close(line)
        self._closing = True
        self._orderly = orderly
        self._completed = completed

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
        if self._scratch.root.exists() and not self.is_in_place:
            raise OvertakenError(self._fence.run, self._fence.attempt, self._fence.attempt + 1)
        if self._closing:
            self._mirror.checkpoints.settle()
        if self._closing or time.monotonic() >= self._next_look_at:
            self._publish_files()
        self._output.publish()
        self._times.publish(self._output.size, closing=self._closing)
        self.curves.publish(closing=self._closing)
        self.system.publish(closing=self._closing)
        self._own.publish()

    def _publish_files(self) -> None:
        self._is_gone = not self._scratch.run.root.is_dir()
        if self._is_gone:  # what was published of it stays
            return
        begun = time.thread_time()
        now = self.look()
        rest = min((time.thread_time() - begun) * _REST, _MAX_REST_SECONDS)
        if rest > _PASS_SECONDS:
            self._next_look_at = time.monotonic() + rest
        # Checked after the look: what was seen was written after its steps were counted.
        if not self._held_back and not self._invalid():
            if self._closing:
                self._mirror.finish(now, orderly=self._orderly, completed=self._completed)
            else:
                self._mirror.advance(now)
