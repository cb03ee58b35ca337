"""Decides why an attempt ended, from the exit code, the stop reason and the output."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from jobs.model.states import Reason, Request
from machine.text import plain
from worker.failures.cause import Cause, find_cause

_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|^MemoryError\b|Cannot allocate memory|std::bad_alloc"
    r"|MemoryError: Unable to allocate|\bCU[A-Z]+_STATUS_ALLOC_FAILED\b",
    re.IGNORECASE,
)
# How torch reports a data loader that the kernel may have killed for lack of memory.
_LOADER_KILLED = re.compile(
    r"DataLoader worker .* killed by signal: Killed|Signal 9 \(SIGKILL\) received by PID"
)
# How torch.compile and Triton report that they find no compiler.
_NO_COMPILER = re.compile(r"InvalidCxxCompiler|No working C\+\+ compiler|Failed to find C compiler")
_GET_A_COMPILER = (
    "torch.compile needs a compiler where the worker runs: install g++, or use the image "
    "spectrain-worker-devel"
)
# Signals that others send: a program prints nothing of them, but processes that miss it may.
_FROM_OUTSIDE = {128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)}
_TAIL_LINES = 50
_TEXT_CHARS = 500
# What it takes to end an attempt, in addition to the upload.
MARGIN_SECONDS = 2.0


class StopReason(Enum):
    """Why the supervisor stops the child; the later member wins over the earlier."""

    SHUTDOWN = auto()
    EVICT = auto()
    PREEMPT = auto()
    PAUSE = auto()
    STALL = auto()
    TIMEOUT = auto()
    DISK = auto()
    DIVERGED = auto()
    RESTARTED = auto()
    CANCEL = auto()


STOP_REASONS = {
    Request.EVICT: StopReason.EVICT,
    Request.PREEMPT: StopReason.PREEMPT,
    Request.PAUSE: StopReason.PAUSE,
    Request.CANCEL: StopReason.CANCEL,
}

_OUTCOMES = {
    StopReason.SHUTDOWN: (Reason.PREEMPTED, "the worker was told to stop"),
    StopReason.EVICT: (Reason.EVICTED, "a job of higher priority needed its slot"),
    StopReason.PREEMPT: (Reason.PREEMPTED, "preempted on request"),
    StopReason.PAUSE: (Reason.PAUSED, "paused on request"),
    StopReason.STALL: (
        Reason.STALLED,
        "no step and no heartbeat for longer than limits.stall_seconds",
    ),
    StopReason.TIMEOUT: (Reason.TIMEOUT, "ran for longer than limits.run_seconds"),
    StopReason.DISK: (
        Reason.ERROR,
        "the run directory grew beyond limits.disk_bytes, or SPECTRAIN_RUN_BYTES of the worker: "
        "keep less, or name what is not to be kept in keep.exclude",
    ),
    StopReason.DIVERGED: (Reason.DIVERGED, "the loss became NaN or infinite"),
    StopReason.RESTARTED: (
        Reason.ERROR,
        "the program began at step 0 although it had a checkpoint to resume from: load it with "
        "CheckpointManager.load_latest_checkpoint(), or set `restart: from_scratch`",
    ),
    StopReason.CANCEL: (Reason.CANCELLED, "cancelled on request"),
}

# Faults of the run, as opposed to requests: their outcomes keep the end of the output.
_FAULTS = frozenset(
    {
        StopReason.STALL,
        StopReason.TIMEOUT,
        StopReason.DISK,
        StopReason.DIVERGED,
        StopReason.RESTARTED,
    }
)
# Faults that invalidate even a run that has finished.
INVALIDATING = frozenset({StopReason.DIVERGED, StopReason.RESTARTED})


def grace(reason: StopReason, seconds: float, last_upload: float) -> float:
    """How many seconds of the grace period the child may use.

    Before a shutdown the last upload must fit in as well: the time of the longest one so far, at
    most half of the period, is reserved for it. A request or a limit reserves nothing.
    """
    if reason is not StopReason.SHUTDOWN:
        return seconds
    return max(seconds - min(last_upload, seconds / 2) - MARGIN_SECONDS, seconds / 4)


@dataclass(frozen=True)
class Outcome:
    """Why an attempt ended, as the record and its readers see it.

    `words` is what a program that failed said last: its exception, or its last line.
    """

    reason: Reason
    message: str
    exit_code: int | None = None
    retryable: bool = True
    log_tail: tuple[str, ...] = ()
    words: str = ""


def stopped_before_start(stop_reason: StopReason) -> Outcome:
    """The outcome of an attempt that was stopped before it had a child."""
    reason, message = _OUTCOMES[stop_reason]
    return Outcome(reason, message)


def outcome(
    exit_code: int,
    stop_reason: StopReason | None,
    output: Sequence[str],
    *,
    zero_means_done: bool,
    out_of_memory: str = "",
    full_disk: str = "",
) -> Outcome:
    """The outcome of a child that exited with `exit_code` after the lines `output`.

    `out_of_memory` says that the kernel has killed some process for lack of memory meanwhile,
    `full_disk` that the disk of the attempt is full.

    `zero_means_done`: the child exits with 0 only if it has finished, even if it was asked to
    stop. For any other program, 0 after SIGTERM may mean that it finished or that it stopped; it
    runs once more, since work done twice is better than work not done.
    """
    if exit_code == 0 and (
        stop_reason is None or (zero_means_done and stop_reason not in INVALIDATING)
    ):
        return Outcome(Reason.COMPLETED, "", exit_code)
    lines = [plain(line) for line in output]
    tail = tuple(lines[-_TAIL_LINES:])
    if stop_reason is not None:
        reason, message = _OUTCOMES[stop_reason]
        return Outcome(
            reason,
            message,
            exit_code,
            retryable=stop_reason not in {StopReason.RESTARTED, StopReason.DISK},
            log_tail=tail if stop_reason in _FAULTS else (),
        )
    if exit_code in _FROM_OUTSIDE:
        if out_of_memory and exit_code == 128 + signal.SIGKILL:
            return Outcome(Reason.OUT_OF_MEMORY, out_of_memory, exit_code, log_tail=tail)
        return Outcome(Reason.ERROR, _describe(exit_code), exit_code, log_tail=tail)
    cause = find_cause(lines)
    for line in cause.exceptions if cause else reversed(tail):
        if _OUT_OF_MEMORY.search(line) or (out_of_memory and _LOADER_KILLED.search(line)):
            return Outcome(Reason.OUT_OF_MEMORY, line.strip(), exit_code, log_tail=tail)
    return _error(exit_code, cause, tail, full_disk)


def _error(exit_code: int, cause: Cause | None, tail: Sequence[str], full_disk: str) -> Outcome:
    last = next((line.strip() for line in reversed(tail) if line.strip()), "")
    text = str(cause) if cause else last[:_TEXT_CHARS]
    advice = _GET_A_COMPILER if _NO_COMPILER.search(text) else ""
    nothing = "" if full_disk else "no output"  # which had no room either
    return Outcome(
        Reason.ERROR,
        ": ".join(filter(None, [full_disk, _describe(exit_code), text or nothing, advice])),
        exit_code,
        log_tail=tuple(tail),
        # Another worker may have more room: that is no failure that repeats.
        words="" if full_disk else cause.final if cause else text,
    )


def _describe(exit_code: int) -> str:
    if exit_code > 128:
        try:
            return f"killed by {signal.Signals(exit_code - 128).name}"
        except ValueError:
            pass
    return f"exit code {exit_code}"
