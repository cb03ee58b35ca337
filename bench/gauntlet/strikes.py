"""When and how a program is interrupted: a pure function of a seed, and its execution."""

from __future__ import annotations

import random
import signal
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

import psutil


class Blow(StrEnum):
    """What is sent to which processes."""

    TERM_WORKER = "SIGTERM worker"  # as Kubernetes and spot machines do
    KILL_PROGRAM = "SIGKILL program"
    KILL_WORKER = "SIGKILL worker"
    TERM_ALL = "SIGTERM all"  # as systemd, Slurm and a shutdown do


# After the program has said from where it resumes: less than a checkpoint's time, or several.
_AFTER_RESUME = (3.0, 24.0)
_AFTER_START = (0.0, 2.0)
_EARLY = 0.15


@dataclass(frozen=True)
class Strike:
    """One blow, `after` seconds after the attempt has started, or after its program has resumed."""

    blow: Blow
    after: float
    is_early: bool
    which: float  # in [0, 1): which of the program's processes


@dataclass(frozen=True)
class Struck:
    """A strike that was executed on an attempt, at a time in seconds since the epoch."""

    strike: Strike
    attempt: int
    at: float


def strikes(seed: int, name: str) -> list[Strike]:
    """The strikes on a program, in order: each blow once."""
    rng = random.Random(f"{seed} {name}")
    found = []
    for blow in rng.sample(list(Blow), len(Blow)):
        is_early = rng.random() < _EARLY
        after = rng.uniform(*(_AFTER_START if is_early else _AFTER_RESUME))
        found.append(Strike(blow, after, is_early, rng.random()))
    return found


def execute(strike: Strike, *, program: int, worker: int, whole_tree: bool) -> bool:
    """Strikes an attempt, by the process ids of its program and worker; whether it was there.

    `whole_tree`: any process of the program may be the one that is killed, not only the first.
    """
    with suppress(psutil.Error):
        first = psutil.Process(program)
        tree = [first, *(first.children(recursive=True) if whole_tree else ())]
        above = psutil.Process(worker)
        match strike.blow:
            case Blow.KILL_PROGRAM:
                tree[int(strike.which * len(tree))].kill()
            case Blow.KILL_WORKER:
                above.kill()
            case Blow.TERM_WORKER:
                above.terminate()
            case Blow.TERM_ALL:
                for process in [above, *above.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess):
                        process.send_signal(signal.SIGTERM)
        return True
    return False
