"""Decides whether a program that failed would fail again in the same way, without I/O."""

from __future__ import annotations

import re
from collections.abc import Set

from jobs.model.record import Attempt, Job
from jobs.model.states import Reason

# A program that counts no steps and ran for longer has probably done some.
SHORT_SECONDS = 120.0
# Failures that say by themselves that the next attempt ends like this one: the program cannot be
# read, found, or started with these arguments. Exit code, None for any, and how the text begins.
_CERTAIN = (
    (None, re.compile(r"(?:\S*\.)?(?:SyntaxError|IndentationError|TabError)\b")),
    (None, re.compile(r"(?:ModuleNotFoundError|ImportError): ")),
    (None, re.compile(r"\S*python\S*: (?:can't open file|can't find '__main__' module) ")),
    (None, re.compile(r"\S*python\S*: (?:No module named |Error while finding module )")),
    (2, re.compile(r"(?:.+: )?[Ee]rror: ")),  # of argparse and click
    (126, re.compile(r"")),
    (127, re.compile(r"")),
)
# What differs from one process to the next.
_OF_ONE_PROCESS = re.compile(r"0x[0-9a-fA-F]+|(?<=pid)\W{0,4}\d+", re.IGNORECASE)


def will_repeat(
    job: Job, ended: Attempt, words: str, machines: Set[str], *, saved: bool = False
) -> bool:
    """Whether another attempt of `job` would end like its current one, `ended`.

    `words` is what the program said last, '' for nothing. `machines` are the hosts in the pool
    whose workers could run the job. The failure repeats if it is certain to or has occurred twice,
    and the job has never got any further, as one has whose program `saved` before it failed. It
    must not be the fault of one machine: either there is no other, or two have seen it.
    """
    attempts = [*job.attempts[:-1], ended]
    if not words or not all(_got_nowhere(one, ended) for one in attempts):
        return False
    if ended.exit_code in (job.spec.retry.on_exit_codes or ()):
        return False
    if (len(attempts) == 1 or saved) and not _is_certain(ended.exit_code, words):
        return False
    tried = {_machine(one.worker) for one in attempts}
    return len(tried) > 1 or not machines - tried


def _got_nowhere(attempt: Attempt, ended: Attempt) -> bool:
    """Whether an attempt failed like `ended`, soon and before its first step."""
    seconds = (attempt.ended_at or attempt.started_at) - attempt.started_at
    return (
        attempt.reason is Reason.ERROR
        and attempt.last_step is None
        and attempt.checkpoint_step is None
        and seconds < SHORT_SECONDS
        and attempt.exit_code == ended.exit_code
        and _OF_ONE_PROCESS.sub("", attempt.message) == _OF_ONE_PROCESS.sub("", ended.message)
    )


def _is_certain(exit_code: int | None, words: str) -> bool:
    """Whether a failure says by itself that it will repeat. Without an exit code it never began."""
    if exit_code is None:
        return True
    return any(
        code in {None, exit_code} and pattern.match(words) is not None for code, pattern in _CERTAIN
    )


def _machine(worker: str) -> str:
    """The host in a worker's name, which ends with a process id and random characters."""
    return worker.rsplit("-", 2)[0]
