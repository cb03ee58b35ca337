"""Finds the place of an attempt on the scratch disk, which is the same for all attempts of a job.

Programs keep absolute paths in what they save. So an attempt begins where the earlier ones were,
once no process of them is left there: one that was overtaken may be, whose worker stands still.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from pathlib import Path

from jobs.model.record import Job
from worker.files.scratch import Scratch
from worker.launch import guard
from worker.losses.note import Note, is_held, notes

log = logging.getLogger(__name__)

# An attempt that has ended is still being cleaned up for a moment.
_POLITE_SECONDS = 2.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05


def place_of(scratch_dir: Path, job: Job, owner: int | None = None) -> Scratch:
    """The usual place of the job, without any process of an earlier attempt.

    It is another one if such a process is out of reach, in another container of this machine.
    `owner`: the user of the job, if it has one of its own.
    """
    usual = Scratch.usual(scratch_dir, job.id, job.attempt, owner)
    begun = time.monotonic()
    while usual.is_held() or _running(scratch_dir, job):
        seconds = time.monotonic() - begun
        if seconds > _POLITE_SECONDS:
            guards = [pid for path in _running(scratch_dir, job) for pid in _guards(path)]
            if not guards:
                log.info("job %s: moves aside what an overtaken attempt left", job.id)
                with contextlib.suppress(FileNotFoundError):
                    usual.move_aside()
                return usual
            for pid in guards:
                _kill(pid)
        if seconds > _POLITE_SECONDS + _KILL_SECONDS:
            log.warning("job %s: an earlier attempt still runs here; its paths differ", job.id)
            return Scratch(scratch_dir, job.id, job.attempt, owner=owner)
        time.sleep(_POLL_SECONDS)
    return usual


def _running(scratch_dir: Path, job: Job) -> list[Path]:
    """The notes of earlier attempts of which a process is left on this disk's machine."""
    return [
        path
        for path in notes(scratch_dir)
        if path.name.startswith(f"{job.id}.") and path.name != f"{job.id}.{job.attempt}"
        and is_held(path)
    ]  # fmt: skip


def _guards(path: Path) -> list[int]:
    """The processes that hold an attempt's note, its worker excepted: they guard its program.

    -1 for those that are out of reach.
    """
    note = Note.read(path)
    if note is None or note.host != socket.gethostname():
        return [-1]
    found: list[int] = []
    with contextlib.suppress(OSError):
        inode = str(path.stat().st_ino)
        # The kernel lists them also where it lets nobody look into the processes themselves.
        for line in Path("/proc/locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode:
                pid = int(fields[4])
                if pid not in {note.pid, os.getpid()} and _is_guard(pid):
                    found.append(pid)
    return found


def _is_guard(pid: int) -> bool:
    try:
        return guard.__name__.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _kill(pid: int) -> None:
    """Makes a guard kill its training process, with all that this has started."""
    if pid > 0:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGUSR1)
            os.kill(pid, signal.SIGCONT)
