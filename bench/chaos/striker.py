"""Carries the strikes out, and lets go on what was stopped."""

from __future__ import annotations

import signal
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

from bench.chaos.schedule import Action, Strike, Target
from bench.chaos.service import Service

_SIGNALS = {
    Action.KILL: signal.SIGKILL,
    Action.TERM: signal.SIGTERM,
    Action.STOP: signal.SIGSTOP,
}


@dataclass
class Striker:
    """Strikes the processes of a service, and no other."""

    service: Service
    struck: Counter[str] = field(default_factory=Counter)  # by what was done
    missed: Counter[str] = field(default_factory=Counter)  # nothing of the kind was there
    workers: set[int] = field(default_factory=set)  # process ids of those that were struck
    _stopped: list[tuple[float, list[psutil.Process]]] = field(default_factory=list)

    def strike(self, strike: Strike, now: float) -> str:
        """Does it; what was done, in words."""
        kind = f"{strike.action} {strike.target}"
        # Who is stopped while it has nothing to do has nothing to say when it wakes up.
        found = self.service.find(strike.target, at_work=strike.action is Action.STOP)
        victims = found[int(strike.which * len(found))] if found else []
        signals = [_SIGNALS[strike.action]] * len(victims)
        if strike.target is Target.OUTAGE and victims:
            signals[0] = signal.SIGSTOP
        pairs = zip(victims, signals, strict=True)
        hit = [process for process, number in pairs if _send(process, number)]
        if not hit:
            self.missed[kind] += 1
            return f"{strike}: none is there"
        if strike.seconds:
            self._stopped.append((now + strike.seconds, hit))
        if strike.target in {Target.WORKER, Target.MACHINE}:
            self.workers.add(victims[0].pid)
        self.struck[kind] += 1
        return f"{strike}: {', '.join(str(process.pid) for process in hit)}"

    def let_go(self, now: float) -> None:
        """Lets those go on whose time is over."""
        for until, processes in self._stopped:
            if until <= now:
                # Those below first: a worker that wakes up finds its child as it left it.
                for process in reversed(processes):
                    _send(process, signal.SIGCONT)
        self._stopped = [entry for entry in self._stopped if entry[0] > now]

    @property
    def all_go(self) -> bool:
        """Whether nothing is stopped any more."""
        return not self._stopped


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    with suppress(psutil.Error):  # psutil looks whether the id is still the process's
        process.send_signal(number)
        return True
    return False
