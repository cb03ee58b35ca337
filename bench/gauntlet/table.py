"""The table of a gauntlet: a row for each program, and its flaws."""

from __future__ import annotations

from collections.abc import Sequence

from bench.gauntlet.course import Result
from bench.gauntlet.strikes import Blow

_MOST_FLAWS = 8
_LETTERS = {
    Blow.TERM_WORKER: "T", Blow.KILL_PROGRAM: "P", Blow.KILL_WORKER: "W", Blow.TERM_ALL: "A",
}  # fmt: skip
_HEADS = ("program", "strikes", "resumed from", "lost steps", "age", "state", "files")


def show(results: Sequence[Result], left: Sequence[str]) -> int:
    """Prints the table; returns 1 if there are flaws."""
    rows = [_HEADS, *(_row(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADS))]
    print()
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    print()
    print("strikes: SIGTERM to the worker (T), SIGKILL of a process of the program (P), SIGKILL of")
    print("the worker (W), SIGTERM to all processes (A); a small letter: before it had resumed.")
    print("age: the oldest checkpoint that was lost, in seconds at the strike.")
    flawed = [result for result in results if result.flaws]
    for result in flawed:
        print(f"\nFAILED {result.kind.name}")
        for flaw in result.flaws[:_MOST_FLAWS]:
            print(f"  {flaw}")
        if len(result.flaws) > _MOST_FLAWS:
            print(f"  … and {len(result.flaws) - _MOST_FLAWS} more")
    for sentence in left:
        print(f"\nFAILED {sentence}")
    if not flawed and not left:
        print(f"\nAll {len(results)} programs lost nothing that was whole.")
    return 1 if flawed or left else 0


def _row(result: Result) -> tuple[str, ...]:
    letters = "".join(
        letter.lower() if one.strike.is_early else letter
        for one in result.struck
        for letter in [_LETTERS[one.strike.blow]]
    )
    ages = [resume.lost_seconds for resume in result.resumes if resume.lost_seconds]
    return (
        result.kind.name,
        letters or "-",
        " ".join(str(resume.step) for resume in result.resumes) or "-",
        str(sum(resume.lost_steps for resume in result.resumes)) if result.resumes else "-",
        f"{max(ages):.1f}" if ages else "-",
        "equal" if result.state_equal else "DIFFERS",
        "equal" if result.files_equal else "DIFFER",
    )
