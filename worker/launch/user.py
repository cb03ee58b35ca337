"""The user that the jobs of a worker run as, where a worker that runs as root gives them one.

Each worker of a machine takes one user id of the range in `SPECTRAIN_JOB_USER` for itself, and runs
one job at a time: no two jobs that run have the same. What a job leaves outside of its own
directories is removed with it, so that the next job with that id does not find it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import SpectrainError
from jobs.settings import Settings
from machine.trees import remove_tree
from worker.launch.inherited import inherited
from worker.launch.leftovers import remove_leftovers_of
from worker.launch.rights import Rights

# Of all workers of the machine; without such a directory, of those with one scratch directory.
_LOCKS, _OTHER_LOCKS = Path("/run/spectrain/users"), ".users"
_HOMES = ".homes"
_DEVICES = ("nvidia*", "kfd", "dri/*")
_NAME = "spectrain-job"
# Traversed by a job's user, who cannot list them.
TRAVERSED = 0o711


class JobUserError(SpectrainError):
    """The jobs of this worker cannot have a user of their own; the message says what to change."""


@dataclass
class JobUser:
    """A user id that this process holds for its jobs; its group has the same number."""

    uid: int
    home: Path
    _lock: int = field(repr=False)

    @classmethod
    def of(cls, settings: Settings) -> JobUser | None:
        """A free one of the settings; None if they name none. Raises `JobUserError`."""
        if not settings.job_user:
            return None
        if os.geteuid() != 0:
            raise JobUserError(
                "SPECTRAIN_JOB_USER needs a worker that runs as root: unset it, or start the "
                "worker as root"
            )
        first, _, last = settings.job_user.partition("-")
        try:
            os.setgroups([])  # what they may read is not to count where this user reads for a job
            folder = _lock_folder(settings.scratch_dir)
            homes = _made(settings.scratch_dir / _HOMES, TRAVERSED)
            for uid in range(int(first), int(last or first) + 1):
                if uid != 0 and (lock := _locked(folder / str(uid))) is not None:
                    user = cls(uid, homes / str(uid), lock)
                    user.clean()
                    user._check(settings.scratch_dir)
                    return user
        except OSError as error:
            raise JobUserError(f"a user for jobs cannot be set up: {error}") from error
        raise JobUserError(
            f"SPECTRAIN_JOB_USER={settings.job_user} has no user left for this worker: the other "
            "workers of this machine hold them; give it as many as there are workers"
        )

    def rights(self, settings: Settings, umask: int | None) -> Rights:
        """The rights of this user's processes."""
        return Rights(self.uid, _device_groups(), umask, settings.job_processes)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say who the user is; it needs no entry in the machine's list."""
        return {"HOME": str(self.home), "USER": _NAME, "LOGNAME": _NAME}

    def clean(self) -> None:
        """Ends the user's processes, empties its home, and removes what else it has left."""
        remove_leftovers_of(self.uid)
        with contextlib.suppress(OSError):
            remove_tree(self.home)
        with contextlib.suppress(OSError):  # a full disk, on which no job starts
            self.home.mkdir(mode=0o700, exist_ok=True)
            os.chown(self.home, self.uid, self.uid)

    def _check(self, scratch_dir: Path) -> None:
        """Raises `JobUserError` if the user cannot reach what every job needs."""
        for folder in (scratch_dir, scratch_dir / _HOMES):
            folder.chmod(folder.stat().st_mode | TRAVERSED)
        asks = f"import os, sys; sys.exit(not os.access({str(self.home)!r}, os.W_OK))"
        try:
            found = subprocess.run(
                [sys.executable, "-I", "-c", asks], user=self.uid, group=self.uid,
                extra_groups=[], cwd="/", env=inherited(os.environ), capture_output=True,
                check=False,
            )  # fmt: skip
        except OSError as error:
            raise JobUserError(
                f"user {self.uid} of SPECTRAIN_JOB_USER cannot run {sys.executable}: install "
                f"Spectrain where every user may read it ({error.strerror})"
            ) from None
        if found.returncode:
            raise JobUserError(
                f"user {self.uid} of SPECTRAIN_JOB_USER cannot enter {scratch_dir}: all may need "
                "to pass the directories around it (chmod o+x), or choose another "
                "SPECTRAIN_SCRATCH_DIR"
            )


def _made(folder: Path, mode: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(mode)
    return folder


def _lock_folder(scratch_dir: Path) -> Path:
    try:
        return _made(_LOCKS, 0o700)
    except OSError:
        return _made(scratch_dir / _OTHER_LOCKS, 0o700)


def _locked(path: Path) -> int | None:
    """A descriptor that holds a lock for as long as this process lives; None if it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _device_groups() -> tuple[int, ...]:
    """The groups that own this machine's GPUs, but for that of root."""
    found: set[int] = set()
    for pattern in _DEVICES:
        for path in Path("/dev").glob(pattern):
            with contextlib.suppress(OSError):
                found.add(path.stat().st_gid)
    return tuple(sorted(found - {0}))
