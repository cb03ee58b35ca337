"""Notes on the scratch disk: which attempt runs here, under a lock that ends with its processes.

A worker holds a lock on the note of its attempt, and so does the guard of the training process. The
kernel releases a lock when the last process that holds it has ended, however it ended, and not
before: a stopped or a slow process keeps it. So a note without a lock belongs to an attempt that
nobody runs any more.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from worker.losses.memory import Memory

_DIRECTORY = ".attempts"
# A note is written whole by one call, which no kill interrupts.
_BYTES = 4096


@dataclass(frozen=True)
class Note:
    """The attempt that a worker runs, and how to recognise the machine that it runs on."""

    job: str
    attempt: int
    worker: str
    pid: int  # of the worker
    host: str
    boot: str
    steps: str  # path of the step counter
    memory: Memory  # about a second ago

    @classmethod
    def here(cls, job: str, attempt: int, worker: str, steps: Path) -> Note:
        """The note of an attempt on this machine."""
        host = socket.gethostname()
        return cls(job, attempt, worker, os.getpid(), host, boot_id(), str(steps), Memory.now())

    @classmethod
    def parse(cls, data: bytes) -> Note | None:
        """The note in a file; None for one that was not written whole, or by another version."""
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found = json.loads(data)
            found["memory"] = Memory(**found["memory"])
            return cls(**{field.name: found[field.name] for field in fields(cls)})
        return None

    @classmethod
    def read(cls, path: Path) -> Note | None:
        """The note at `path`, whoever holds it; None if there is none."""
        try:
            return cls.parse(path.read_bytes())
        except OSError:
            return None

    @property
    def same_boot(self) -> bool:
        """Whether this machine has run without a restart since the note was made.

        Containers of one machine share the boot.
        """
        return self.boot == boot_id()


def boot_id() -> str:
    """Identifies this run of the machine's kernel; '' if the kernel does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


class NoteFile:
    """The note of a running attempt; its lock is held until `close`, or the end of the process."""

    def __init__(self, path: Path, descriptor: int, note: Note) -> None:
        self.path = path
        self._descriptor = descriptor
        self._note = note

    @classmethod
    def create(cls, scratch_dir: Path, note: Note) -> NoteFile:
        """Writes a note and holds it; raises `OSError`."""
        path = scratch_dir / _DIRECTORY / f"{note.job}.{note.attempt}"
        path.parent.mkdir(parents=True, exist_ok=True)
        # It has its lock before it has its name: nobody finds it unlocked.
        new = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        descriptor = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            file = cls(path, descriptor, note)
            file._write()
            new.rename(path)
        except BaseException:
            os.close(descriptor)
            new.unlink(missing_ok=True)
            raise
        return file

    def update(self) -> None:
        """Notes the present memory."""
        self._note = replace(self._note, memory=Memory.now())
        with contextlib.suppress(OSError):  # a full disk; the last one stands
            self._write()

    def close(self) -> None:
        """Removes the note: the attempt has ended."""
        remove(self.path)
        os.close(self._descriptor)

    def _write(self) -> None:
        os.pwrite(self._descriptor, json.dumps(asdict(self._note)).encode().ljust(_BYTES), 0)


@contextlib.contextmanager
def noted(scratch_dir: Path, note: Note) -> Iterator[NoteFile | None]:
    """Keeps the note of an attempt while it runs; None if the disk takes no note."""
    try:
        file = NoteFile.create(scratch_dir, note)
    except OSError:  # then the lease finds a dead worker
        yield None
        return
    try:
        yield file
    finally:
        file.close()


def hold(path: Path) -> int | None:
    """Locks a note for as long as this process lives; None if it is gone or abandoned already."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
        else:
            return descriptor
    return None


def is_held(path: Path) -> bool:
    """Whether a process of the attempt is left that a note belongs to."""
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def abandoned(path: Path) -> Iterator[Note | None]:
    """The note if no process holds it, for the duration of a block in which nobody else gets it."""
    note = None
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(descriptor).st_ino:
                note = Note.parse(os.read(descriptor, _BYTES))
                if note is None:
                    remove(path)
        yield note


def notes(scratch_dir: Path) -> list[Path]:
    """The notes on a scratch disk, held or abandoned."""
    with contextlib.suppress(OSError):
        return sorted(p for p in (scratch_dir / _DIRECTORY).iterdir() if p.suffix != ".tmp")
    return []


def remove(path: Path) -> None:
    """Removes a note, and the directory with the last one."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
        path.parent.rmdir()
