"""The progress lines of `spectrain demo` where its output is not a terminal."""

from __future__ import annotations

import io

from rich.console import Console

from api.local.demo import ProgressLines


def test_a_line_that_says_nothing_new_is_not_printed_again() -> None:
    output, now = io.StringIO(), [100.0]
    lines = ProgressLines(Console(file=output), clock=lambda: now[0])
    for seconds, line in [
        (0, "step 0/9  starting"), (5, "step 0/9  starting"), (1, "step 1/9"), (4, "step 2/9"),
        (5, "step 3/9"),
    ]:  # fmt: skip
        now[0] += seconds
        lines.print(line)
    assert output.getvalue() == "   step 0/9  starting\n   step 1/9\n   step 3/9\n"


def test_a_terminal_has_a_bar_in_place_of_lines() -> None:
    output = io.StringIO()
    ProgressLines(Console(file=output, force_terminal=True)).print("step 0/9")
    assert output.getvalue() == ""
