"""Executes the strikes, and resumes the processes that they stopped."""

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
    """Strikes processes of one service and no other."""

    service: Service
    struck: Counter[str] = field(default_factory=Counter)  # by action and target
    missed: Counter[str] = field(default_factory=Counter)  # no such process existed
    workers: set[int] = field(default_factory=set)  # process ids of struck workers
    _stopped: list[tuple[float, list[psutil.Process]]] = field(default_factory=list)

    def strike(self, strike: Strike, now: float) -> str:
        """Executes a strike; returns a line that describes it."""
        kind = f"{strike.action} {strike.target}"
        # Prefer a worker at work: one that is stopped while idle has nothing to write afterwards.
        found = self.service.find(strike.target, at_work=strike.action is Action.STOP)
        victims = found[int(strike.which * len(found))] if found else []
        signals = [_SIGNALS[strike.action]] * len(victims)
        if strike.target is Target.OUTAGE and victims:
            signals[0] = signal.SIGSTOP
        pairs = zip(victims, signals, strict=True)
        hit = [process for process, number in pairs if _send(process, number)]
        if not hit:
            self.missed[kind] += 1
            return f"{strike}: no such process"
        if strike.seconds:
            self._stopped.append((now + strike.seconds, hit))
        if strike.target in {Target.WORKER, Target.MACHINE}:
            self.workers.add(victims[0].pid)
        self.struck[kind] += 1
        return f"{strike}: {', '.join(str(process.pid) for process in hit)}"

    def resume_due(self, now: float) -> None:
        """Resumes the processes whose time is over."""
        for until, processes in self._stopped:
            if until <= now:
                # Descendants first: a resumed worker finds its child as it left it.
                for process in reversed(processes):
                    _send(process, signal.SIGCONT)
        self._stopped = [entry for entry in self._stopped if entry[0] > now]

    @property
    def all_resumed(self) -> bool:
        """Whether no process is stopped."""
        return not self._stopped


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    with suppress(psutil.Error):  # psutil checks that the id still belongs to the process
        process.send_signal(number)
        return True
    return False
