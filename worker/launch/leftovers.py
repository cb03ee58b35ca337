"""What the jobs of a user have left on this machine: processes, shared memory, files for all.

The user ends and removes them itself: a worker needs no right for that but to become this user.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from machine.trees import remove_tree

# Where every user may write.
_SHARED = tuple(map(Path, ("/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/run/lock")))  # noqa: S108
_IPC = Path("/proc/sysvipc")
_END_SECONDS = 10.0
_POLL_SECONDS = 0.01
# Ends all processes of its user at once: none has the time to start another one (kill(2)).
_ENDS = "import os; os.kill(-1, 9)"
_REMOVES = (
    "import ctypes, sys; c = ctypes.CDLL(None); calls = dict(shm=c.shmctl, msg=c.msgctl)\n"
    "for word in sys.argv[1:]:\n"
    "    kind, number = word.split(':')\n"
    "    c.semctl(int(number), 0, 0) if kind == 'sem' else calls[kind](int(number), 0, None)\n"
)


def remove_leftovers_of(uid: int) -> None:
    """Ends the processes of a user, and removes what it has where all may write.

    Only the jobs of this worker may have that user.
    """
    give_up_at = time.monotonic() + _END_SECONDS
    while _has_processes(uid) and time.monotonic() < give_up_at:
        _run_as(uid, _ENDS)
        time.sleep(_POLL_SECONDS)
    if left := list(_memory_of(uid)):
        _run_as(uid, _REMOVES, *left)
    for path in _files_of(uid):
        with contextlib.suppress(OSError):
            remove_tree(path)


def _run_as(uid: int, script: str, *words: str) -> None:
    with contextlib.suppress(OSError):
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", script, *words], user=uid, group=uid,
            extra_groups=[], cwd="/", env={}, check=False,
        )  # fmt: skip


def _has_processes(uid: int) -> bool:
    """Whether a process of the user is left that has not ended."""
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and folder.stat().st_uid == uid:
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
                if state not in "ZX":
                    return True
    return False


def _memory_of(uid: int) -> Iterator[str]:
    """The segments, queues and semaphores of System V that a user has made: `kind:number`."""
    for kind in ("shm", "msg", "sem"):
        with contextlib.suppress(OSError):
            head, *lines = (_IPC / kind).read_text().splitlines()
            at = head.split().index("cuid")
            for line in lines:
                if int((fields := line.split())[at]) == uid:
                    yield f"{kind}:{fields[1]}"


def _files_of(uid: int) -> Iterator[Path]:
    """What a user has directly below the folders that all share."""
    for folder in _SHARED:
        with contextlib.suppress(OSError), os.scandir(folder) as found:
            for item in found:
                with contextlib.suppress(OSError):
                    if item.stat(follow_symlinks=False).st_uid == uid:
                        yield Path(item.path)
