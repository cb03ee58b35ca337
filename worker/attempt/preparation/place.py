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
from worker.losses.note import Note, is_held, notes

log = logging.getLogger(__name__)

# An attempt that has ended is still being cleaned up for a moment.
_POLITE_SECONDS = 2.0
_KILL_SECONDS = 5.0
_POLL_SECONDS = 0.05


def place_of(scratch_dir: Path, job: Job) -> Scratch:
    """The usual place of the job, without any process of an earlier attempt.

    It is another one if such a process is out of reach, in another container of this machine.
    """
    usual = Scratch.usual(scratch_dir, job.id, job.attempt)
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
            for guard in guards:
                _kill(guard)
        if seconds > _POLITE_SECONDS + _KILL_SECONDS:
            log.warning("job %s: an earlier attempt still runs here; its paths differ", job.id)
            return Scratch(scratch_dir, job.id, job.attempt)
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
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and int(process.name) not in {note.pid, os.getpid()}:
                opened = (descriptor.readlink() for descriptor in (process / "fd").iterdir())
                if path.resolve() in opened:
                    found.append(int(process.name))
    return found


def _kill(guard: int) -> None:
    """Makes a guard kill its training process, with all that this has started."""
    if guard > 0:
        with contextlib.suppress(OSError):
            os.kill(guard, signal.SIGUSR1)
            os.kill(guard, signal.SIGCONT)
