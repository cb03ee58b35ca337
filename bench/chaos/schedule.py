"""The schedule of strikes and submissions: pure functions of a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Target(StrEnum):
    """The target of a strike: any process of this kind that exists at the time."""

    CHILD = "child"  # a training process
    GUARD = "guard"  # the parent of a training process
    FORK_SERVER = "fork server"
    WORKER = "worker"
    MACHINE = "machine"  # a worker with all its descendants
    API = "api"
    REDIS = "redis"
    OUTAGE = "redis for long"  # the process that would restart it is stopped too


class Action(StrEnum):
    """The signal that a strike sends."""

    KILL = "kill"  # SIGKILL
    TERM = "term"  # SIGTERM
    STOP = "stop"  # SIGSTOP, and SIGCONT after a while


# The number of cards of each kind in the deck, which is dealt again when it is empty.
_DECK = {
    (Target.CHILD, Action.KILL): 2,
    (Target.CHILD, Action.STOP): 1,
    (Target.GUARD, Action.KILL): 1,
    (Target.GUARD, Action.STOP): 1,
    (Target.FORK_SERVER, Action.KILL): 1,
    (Target.FORK_SERVER, Action.STOP): 1,
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
# How long a process stays stopped, in leases, from and to.
_STOPPED_LEASES = (1.5, 4.0)
# A worker alone, whose child continues: long enough that most then find a newer attempt.
_WORKER_STOPPED_LEASES = (4.0, 7.0)


@dataclass(frozen=True)
class Strike:
    """One strike, `at` seconds after the start, at one of the processes that exist then.

    `which` in [0, 1) selects the process: 0 is the oldest. It stays stopped for `seconds`.
    """

    at: float
    target: Target
    action: Action
    which: float
    seconds: float = 0.0

    def __str__(self) -> str:
        """The action and its target."""
        stop = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.action} {self.target}{stop}"


@dataclass(frozen=True)
class Submission:
    """One job of the `kind`-th specification, submitted `at` seconds after the start."""

    at: float
    kind: int
    priority: int


def strikes(seed: int, *, seconds: float, every: float, lease: float) -> list[Strike]:
    """The strikes of a run of `seconds`, one in each interval of `every` seconds, in order."""
    rng = random.Random(f"strikes {seed}")
    deck: list[tuple[Target, Action]] = []
    found = []
    for number in range(int(seconds / every)):
        if not deck:
            deck = rng.sample(_KINDS, len(_KINDS))
        target, action = deck.pop()
        at, which = (number + rng.random()) * every, rng.random()
        alone = (target, action) == (Target.WORKER, Action.STOP)
        stopped = rng.uniform(*(_WORKER_STOPPED_LEASES if alone else _STOPPED_LEASES)) * lease
        stops = action is Action.STOP or target is Target.OUTAGE
        found.append(Strike(at, target, action, which, stopped if stops else 0.0))
    return found


def submissions(seed: int, *, jobs: int, kinds: int, seconds: float) -> list[Submission]:
    """`jobs` submissions within `seconds`, the first ones at once, with mixed priorities."""
    rng = random.Random(f"submissions {seed}")
    times = sorted(rng.random() * seconds for _ in range(jobs))
    at_once = min(jobs, 3)  # so that there are targets from the start
    return [
        Submission(0.0 if number < at_once else at, number % kinds, rng.randint(0, 9))
        for number, at in enumerate(times)
    ]
