"""Chooses, among all tracebacks in a program's output, the one that says why it failed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from worker.failures.tracebacks import Traceback, tracebacks

# A program that prints more lines after a traceback has survived it. What trackers and launchers
# print at the end of a process is shorter.
_AFTER_LINES = 100
# A crash so soon after a traceback, or another crash, belongs to the exit of the process.
_EXIT_LINES = 5
# Exceptions that say how a process that this one started has ended.
_REPORT = re.compile(
    r"(?:[\w.]*\.)?(?:ChildFailedError|ProcessRaisedException|ProcessExitedException"
    r"|CalledProcessError)\b"
)
# Exceptions that say that another process is gone.
_CONSEQUENCE = re.compile(
    rf"{_REPORT.pattern}|(?:[\w.]*\.)?(?:BrokenProcessPool|BrokenPipeError|ConnectionResetError"
    r"|ConnectionRefusedError|ConnectionAbortedError|EOFError|DistBackendError|DistNetworkError"
    r"|TerminatedWorkerError)\b"
    r"|RuntimeError: .*(?:Connection (?:closed|reset) by peer|NCCL (?:communicator was|error)"
    r"|Broken pipe|Timed out waiting)"
    r"|OSError: \[Errno 9\]"
    r"|terminate called (?:without an active exception|recursively)"
)
# In the summary of torchrun: the rank that failed first, and how.
_FIRST_FAILURE = "Root Cause (first observed failure):"
_RANK = re.compile(r"\s+rank\s*:\s*(\d+)")
_ENDED_BY = re.compile(r"\s+traceback\s*: (Signal \d+ .*)")
_SUMMARY_LINES = 12
_LAUNCHER_LOG = re.compile(r"\W*[EWIF]\d{4} ")
_LAUNCHER_LINES = 20
_TEXT_CHARS = 500


@dataclass(frozen=True)
class Cause:
    """The exceptions that ended a program, root cause first."""

    exceptions: tuple[str, ...]

    def __str__(self) -> str:
        """The root cause, and the exception that it led to."""
        root, last = self.exceptions[0], self.exceptions[-1]
        return root if last == root else f"{root} (then {last})"

    @property
    def final(self) -> str:
        """The exception that ended the program; that of its process, if a launcher reports it.

        The root cause may be one that the program was about to get over.
        """
        root, last = self.exceptions[0], self.exceptions[-1]
        return root if _REPORT.match(last) else last


def find_cause(lines: Sequence[str]) -> Cause | None:
    """Why the program that printed `lines` failed; None if it printed no exception."""
    found = _at_the_end(tracebacks(lines), lines)
    rank, ended_by = _summary(lines)
    strong = [one for one in found if not one.weak]
    causes = [one for one in strong if not _CONSEQUENCE.match(one.cause)]
    if not causes and ended_by is not None:
        return Cause((ended_by,))
    for group in (causes, strong, found):
        if group:
            chosen = _first_process(group, rank)
            reported = [] if causes else _last_line_before(chosen, lines)
            return Cause((*reported, *chosen.exceptions))
    return None


def _last_line_before(report: Traceback, lines: Sequence[str]) -> list[str]:
    """What a process without a traceback said last, before its launcher reported its end."""
    if not _REPORT.match(report.cause):
        return []
    before = lines[max(0, report.start - _LAUNCHER_LINES) : report.start]
    texts = (line.strip() for line in reversed(before))
    said = next((text for text in texts if text and not _LAUNCHER_LOG.match(text)), None)
    return [said[:_TEXT_CHARS]] if said else []


def _at_the_end(found: Sequence[Traceback], lines: Sequence[str]) -> list[Traceback]:
    """The tracebacks after which the program said little more, without crashes at exit."""
    depth = [0] * (len(lines) + 1)
    for one in found:
        depth[one.start] += 1
        depth[one.end + 1] -= 1
    others = (not inside and bool(line.strip())
              for inside, line in zip(accumulate(depth), lines, strict=False))  # fmt: skip
    plain = list(accumulate(others, initial=0))  # lines of no traceback before each line
    late = [one for one in found if plain[-1] - plain[one.end + 1] <= _AFTER_LINES]
    kept: list[Traceback] = []
    for one in late:
        before = kept[-1] if kept and one.crash and not kept[-1].weak else None
        if before is None or plain[one.start] - plain[before.end + 1] > _EXIT_LINES:
            kept.append(one)
    return kept


def _first_process(found: Sequence[Traceback], rank: int | None) -> Traceback:
    """The last traceback of the process that failed first; without marks the last one."""
    last = {one.mark: one for one in found if one.mark}
    if not last:
        return found[-1]
    named = [one for mark, one in last.items() if _numbers(mark)[-1:] == [rank]]
    return min(named or last.values(), key=lambda one: one.end)


def _numbers(mark: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d{1,9}", mark)]


def _summary(lines: Sequence[str]) -> tuple[int | None, str | None]:
    """The rank that torchrun names as the first to fail, and the signal that ended it."""
    starts = [n for n, line in enumerate(lines) if line.endswith(_FIRST_FAILURE)]
    rank = ended_by = None
    for line in lines[starts[-1] : starts[-1] + _SUMMARY_LINES] if starts else ():
        if match := _RANK.match(line):
            rank = int(match[1][:9])
        elif match := _ENDED_BY.match(line):
            ended_by = f"rank {rank}: {match[1]}" if rank is not None else match[1]
    return rank, ended_by
