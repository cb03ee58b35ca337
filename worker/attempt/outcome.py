"""What the end of a training process means."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from jobs.model.states import Reason, Request
from worker.launch.guard import CANNOT_START, NOT_STARTED

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|^MemoryError\b|Cannot allocate memory|std::bad_alloc"
    r"|MemoryError: Unable to allocate|\bCU[A-Z]+_STATUS_ALLOC_FAILED\b",
    re.IGNORECASE,
)
# What torch says of a data loader that the kernel may have killed for want of memory.
_LOADER_KILLED = re.compile(r"DataLoader worker .* killed by signal: Killed")
_TRACEBACK = "Traceback (most recent call last):"
_CHAINED = ("During handling of the above exception", "The above exception was the direct cause")
_TAIL_LINES = 50
# What ending an attempt takes, beside the upload.
MARGIN_SECONDS = 2.0


class Intent(Enum):
    """Why the supervisor stopped the child; the later one wins."""

    SHUTDOWN = auto()
    EVICT = auto()
    PREEMPT = auto()
    PAUSE = auto()
    STALL = auto()
    TIMEOUT = auto()
    DIVERGED = auto()
    RESTARTED = auto()
    CANCEL = auto()


BY_REQUEST = {
    Request.EVICT: Intent.EVICT,
    Request.PREEMPT: Intent.PREEMPT,
    Request.PAUSE: Intent.PAUSE,
    Request.CANCEL: Intent.CANCEL,
}

_MEANING = {
    Intent.SHUTDOWN: (Reason.PREEMPTED, "the worker was told to stop"),
    Intent.EVICT: (Reason.EVICTED, "a job of higher priority needed its place"),
    Intent.PREEMPT: (Reason.PREEMPTED, "preempted on request"),
    Intent.PAUSE: (Reason.PAUSED, "paused on request"),
    Intent.STALL: (Reason.STALLED, "no new step for longer than limits.stall_seconds"),
    Intent.TIMEOUT: (Reason.TIMEOUT, "ran for longer than limits.run_seconds"),
    Intent.DIVERGED: (Reason.DIVERGED, "the loss became NaN or infinite"),
    Intent.RESTARTED: (
        Reason.ERROR,
        "the program began at step 0 although it had a checkpoint to go on from: load it with "
        "CheckpointManager.load_latest_checkpoint(), or say `restart: from_scratch`",
    ),
    Intent.CANCEL: (Reason.CANCELLED, "cancelled on request"),
}


# What went wrong, rather than what somebody asked for.
_WRONG = frozenset({Intent.STALL, Intent.TIMEOUT, Intent.DIVERGED, Intent.RESTARTED})
# What spoils a run, also one that has finished.
SPOILS = frozenset({Intent.DIVERGED, Intent.RESTARTED})


def grace(intent: Intent, seconds: float, last_upload: float) -> float:
    """How long the child has to leave, of the grace of `seconds`.

    Where the machine is about to go, the last upload must fit in too: what the longest one took
    is kept back, up to half. Where a person or a limit asks, nothing presses.
    """
    if intent is not Intent.SHUTDOWN:
        return seconds
    return max(seconds - min(last_upload, seconds / 2) - MARGIN_SECONDS, seconds / 4)


@dataclass(frozen=True)
class Outcome:
    """Why an attempt ended, for the record and for a person."""

    reason: Reason
    message: str
    exit_code: int | None = None
    retryable: bool = True
    log_tail: tuple[str, ...] = ()


def not_started(intent: Intent) -> Outcome:
    """The outcome of an attempt that was asked to stop before it had a child."""
    reason, message = _MEANING[intent]
    return Outcome(reason, message)


def outcome(
    exit_code: int,
    intent: Intent | None,
    output: Sequence[str],
    *,
    says_when_done: bool,
    killed_for_memory: bool = False,
) -> Outcome:
    """The outcome of a child that exited with `exit_code` after the lines `output`.

    `killed_for_memory`: the kernel killed some process for want of memory meanwhile.

    `says_when_done`: it exits with 0 only when it has finished, also after it was asked to stop.
    Of any other program an exit with 0 after SIGTERM may mean either; it runs once more, for
    work done twice is better than work not done.
    """
    if exit_code == 0 and (intent is None or (says_when_done and intent not in SPOILS)):
        return Outcome(Reason.COMPLETED, "", exit_code)
    tail = tuple(output[-_TAIL_LINES:])
    if intent is not None:
        reason, message = _MEANING[intent]
        return Outcome(
            reason,
            message,
            exit_code,
            retryable=intent is not Intent.RESTARTED,
            log_tail=tail if intent in _WRONG else (),
        )
    last = next((line.strip() for line in reversed(tail) if line.strip()), "no output")
    if killed_for_memory and exit_code == 128 + signal.SIGKILL:
        message = f"killed by the kernel: the machine or the container is out of memory: {last}"
        return Outcome(Reason.OUT_OF_MEMORY, message, exit_code, log_tail=tail)
    for line in reversed(_last_words(tail)):
        if _OUT_OF_MEMORY.search(line) or (killed_for_memory and _LOADER_KILLED.search(line)):
            return Outcome(Reason.OUT_OF_MEMORY, line.strip(), exit_code, log_tail=tail)
    return Outcome(
        Reason.ERROR,
        f"{_describe(exit_code)}: {last}",
        exit_code,
        # A program that was started may exit with that code too, and shells do.
        retryable=exit_code != NOT_STARTED or not last.startswith(CANNOT_START),
        log_tail=tail,
    )


def _last_words(lines: Sequence[str]) -> Sequence[str]:
    """What a program said of its end: from its last traceback on, where there is one.

    What it has survived before, such as a batch that did not fit, is no reason. Exceptions that
    came of each other are one.
    """
    said = ""
    start = 0
    for number, line in enumerate(lines):
        if line == _TRACEBACK and not said.startswith(_CHAINED):
            start = number
        said = line or said
    return lines[start:]


def _describe(exit_code: int) -> str:
    if exit_code > 128:
        try:
            return f"killed by {signal.Signals(exit_code - 128).name}"
        except ValueError:
            pass
    return f"exit code {exit_code}"
