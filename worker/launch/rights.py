"""The rights with which a job's processes run: their user, their umask, and how many they are."""

from __future__ import annotations

import contextlib
import os
import resource
from dataclasses import dataclass

from machine.prctl import prctl

_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class Rights:
    """What a process takes on before it becomes a job's; None leaves what the worker has.

    `processes` is counted by the kernel for each user, so it holds for a user of the job's own.
    """

    uid: int | None = None
    groups: tuple[int, ...] = ()  # of the devices that it may use
    umask: int | None = None
    processes: int = 0  # at most, with threads; 0 for any number

    def take(self) -> None:
        """Gives this process these rights, for good; raises `OSError`."""
        if self.umask is not None:
            os.umask(self.umask)
        if self.uid is None:
            return
        if self.processes:
            with contextlib.suppress(ValueError, OSError):  # a lower limit is there already
                resource.setrlimit(resource.RLIMIT_NPROC, (self.processes, self.processes))
        os.setgroups(self.groups)
        os.setresgid(self.uid, self.uid, self.uid)
        os.setresuid(self.uid, self.uid, self.uid)
        prctl(_PR_SET_NO_NEW_PRIVS, 1)  # by a program that changes its user, such as sudo


AS_THE_WORKER = Rights()
