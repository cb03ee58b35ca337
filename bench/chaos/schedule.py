"""When what is struck, and when which job is submitted: pure functions of a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """What a strike looks for; it takes whichever is there when its time has come."""

    CHILD = "child"  # a training process
    GUARD = "guard"  # what stands between a worker and its training process
    LAUNCHER = "launcher"
    WORKER = "worker"
    MACHINE = "machine"  # a worker with all that runs below it
    API = "api"
    REDIS = "redis"
    OUTAGE = "redis for long"  # what would start it again stands still meanwhile


class Action(StrEnum):
    """What is done to it."""

    KILL = "kill"  # SIGKILL
    TERM = "term"  # SIGTERM
    STOP = "stop"  # SIGSTOP, and SIGCONT after a while


# How many cards of each kind are in the deck that is dealt again and again.
_DECK = {
    (Target.CHILD, Action.KILL): 2,
    (Target.CHILD, Action.STOP): 1,
    (Target.GUARD, Action.KILL): 1,
    (Target.GUARD, Action.STOP): 1,
    (Target.LAUNCHER, Action.KILL): 1,
    (Target.LAUNCHER, Action.STOP): 1,
    (Target.WORKER, Action.KILL): 2,
    (Target.WORKER, Action.STOP): 2,
    (Target.WORKER, Action.TERM): 1,
    (Target.MACHINE, Action.KILL): 1,
    (Target.MACHINE, Action.STOP): 2,
    (Target.API, Action.KILL): 1,
    (Target.API, Action.STOP): 1,
    (Target.REDIS, Action.KILL): 1,
    (Target.OUTAGE, Action.KILL): 1,
    (Target.REDIS, Action.STOP): 1,
}
_KINDS = [kind for kind, count in _DECK.items() for _ in range(count)]
# How long what was stopped stands still, in leases, from and to.
_STILL = (1.5, 4.0)
# A worker alone, whose child goes on: long enough that most find a newer attempt when they wake up.
_WORKER_STILL = (4.0, 7.0)


@dataclass(frozen=True)
class Strike:
    """One strike: when, in seconds after the start, and at whom of those that are there then.

    `which` is in [0, 1): 0 the oldest. `seconds` is for how long it stops, or stays away.
    """

    at: float
    target: Target
    action: Action
    which: float
    seconds: float = 0.0

    def __str__(self) -> str:
        """What is done to whom."""
        stop = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.action} {self.target}{stop}"


@dataclass(frozen=True)
class Submission:
    """One job: `at` so many seconds after the start, of the `kind`-th specification."""

    at: float
    kind: int
    priority: int


def strikes(seed: int, *, seconds: float, every: float, lease: float) -> list[Strike]:
    """The strikes of a run of `seconds`, one in `every` so many, in the order of their times."""
    dice = random.Random(f"strikes {seed}")
    deck: list[tuple[Target, Action]] = []
    found = []
    for number in range(int(seconds / every)):
        if not deck:
            deck = dice.sample(_KINDS, len(_KINDS))
        target, action = deck.pop()
        at, which = (number + dice.random()) * every, dice.random()
        alone = (target, action) == (Target.WORKER, Action.STOP)
        still = dice.uniform(*(_WORKER_STILL if alone else _STILL)) * lease
        stands = action is Action.STOP or target is Target.OUTAGE
        found.append(Strike(at, target, action, which, still if stands else 0.0))
    return found


def submissions(seed: int, *, jobs: int, kinds: int, seconds: float) -> list[Submission]:
    """So many jobs in `seconds`, some at once and some alone, of mixed priorities."""
    dice = random.Random(f"submissions {seed}")
    times = sorted(dice.random() * seconds for _ in range(jobs))
    at_once = min(jobs, 3)  # there is something to strike from the start
    return [
        Submission(0.0 if number < at_once else at, number % kinds, dice.randint(0, 9))
        for number, at in enumerate(times)
    ]
