"""The reason of a failure is the program's, whatever is printed around it."""

from __future__ import annotations

import textwrap
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.failures.cause import find_cause

HEADER = "Traceback (most recent call last):"
FRAME = '  File "/w/train.py", line 3, in main\n    step(batch)\n    ~~~~^^^^^^^'
CAUSED = "\n\nThe above exception was the direct cause of the following exception:\n\n"
HANDLED = "\n\nDuring handling of the above exception, another exception occurred:\n\n"
REAL = "ValueError: the real reason"


def trace(exception: str) -> str:
    return f"{HEADER}\n{FRAME}\n{exception}"


def marked(mark: str, text: str) -> str:
    return textwrap.indent(text, mark, lambda _: True)


def cause_of(text: str) -> str | None:
    found = find_cause(text.split("\n"))
    return None if found is None else str(found)


WANDB = "\n".join(f"wandb: Run summary: line {n}" for n in range(30)) + "\nwandb: Find logs at: ./x"
SUMMARY = f"""\
{trace("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")}
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-01-01_00:00:00
  host      : a
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 11)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-01-01_00:00:00
  host      : a
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 12)
  error_file: <N/A>
  traceback : To enable traceback see: the manual
============================================================"""
GROUP = f"""\
  + Exception Group {HEADER}
  |   File "/w/t.py", line 9, in <module>
  |     raise ExceptionGroup("many", errors)
  | ExceptionGroup: many (2 sub-exceptions)
  +-+---------------- 1 ----------------
    | {HEADER}
    |   File "/w/t.py", line 4, in f
    |     raise ValueError("the real reason")
    | {REAL}
    +---------------- 2 ----------------
    | TypeError: never raised
    +------------------------------------"""
RICH = """\
╭─────────────── Traceback (most recent call last) ────────────────╮
│ /w/train.py:4 in <module>                                        │
│ ❱ 4 raise ValueError("the real reason")                          │
│ ╭─ locals ─╮                                                     │
│ │  x = 3   │                                                     │
│ ╰──────────╯                                                     │
╰──────────────────────────────────────────────────────────────────╯
"""
RANKS = "\n".join(
    f"[rank{rank}]: {line}"
    for pair in zip(
        trace("RuntimeError: Connection closed by peer").split("\n"),
        trace(REAL).split("\n"),
        strict=True,
    )
    for rank, line in enumerate(pair)
)
REMOTE = f'concurrent.futures.process._RemoteTraceback: \n"""\n{trace(REAL)}\n"""'
FOREVER = "\n".join(f"step {n}" for n in range(300))

TABLE = {
    "a plain one": (trace(REAL), REAL),
    "with the tracker's last lines below it": (f"{trace(REAL)}\n{WANDB}", REAL),
    "a deep one": (f"{HEADER}\n{chr(10).join([FRAME] * 900)}\n{REAL}", REAL),
    "a recursion": (
        f"{HEADER}\n{FRAME}\n  [Previous line repeated 995 more times]\nRecursionError: too deep",
        "RecursionError: too deep",
    ),
    "without a message": (trace("AssertionError"), "AssertionError"),
    "of a class of its own": (trace("train.f.<locals>.Bad: no"), "train.f.<locals>.Bad: no"),
    "its cause": (
        trace(REAL) + CAUSED + trace("RuntimeError: wrapped"),
        f"{REAL} (then RuntimeError: wrapped)",
    ),
    "while another was handled": (
        trace(REAL) + HANDLED + trace("OSError: a") + CAUSED + trace("OSError: b"),
        f"{REAL} (then OSError: b)",
    ),
    "after one that was survived": (f"{trace('OSError: retried')}\n{trace(REAL)}", REAL),
    "several lines, with a note": (
        trace(f"{REAL}:\n\tMissing keys: a\n\tMore: b\nnote: see the manual"),
        f"{REAL}: Missing keys: a More: b",
    ),
    "the message in the next line": (trace("app.Bad:\nno such file"), "app.Bad: no such file"),
    "a syntax error": (
        '  File "/w/t.py", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax',
        "SyntaxError: invalid syntax",
    ),
    "a frame in a message": (
        trace("torch.Unsupported: call\n\nfrom user code:\n  File \"/w/t.py\", line 5, in f\n"
              "    x()\n\nSet TORCH_LOGS") + "\nwandb.errors: done",
        "torch.Unsupported: call",
    ),
    "Hydra": (
        f"Error executing job with overrides: ['lr=1']\n{trace(REAL)}\n\n"
        "Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.",
        REAL,
    ),
    "rich": (f"{RICH}{REAL}", REAL),
    "rich without Unicode": (
        f"+---- Traceback (most recent call last) ----+\n| t.py:4 in f |\n+---+\n{REAL}", REAL,
    ),
    "rich, chained": (
        f"{RICH}{REAL}{CAUSED}{RICH}OSError: b", f"{REAL} (then OSError: b)",
    ),
    "a group": (GROUP, f"{REAL} (then ExceptionGroup: many (2 sub-exceptions))"),
    "logged": (f"ERROR:root:failed\n{trace(REAL)}", REAL),
    "logged in one line": (f"ERROR:root:{trace(REAL)}", REAL),
    "torchrun": (f"{RANKS}\n{SUMMARY}", REAL),
    "torchrun that tees": (
        f"{marked('[default1]:', marked('[rank1]: ', trace(REAL)))}\n"
        f"{marked('[default0]:', marked('[rank0]: ', trace('KeyError: 1')))}\n{SUMMARY}",
        REAL,
    ),
    "torchrun, before there are ranks": (f"{trace(REAL)}\n{trace(REAL)}\n{SUMMARY}", REAL),
    "torchrun with a recorded error": (
        f"{SUMMARY}\n  traceback : {marked('  ', trace(REAL)).strip()}", REAL,
    ),
    "a rank that a signal ended": (
        SUMMARY.replace("To enable traceback see: the manual",
                        "Signal 9 (SIGKILL) received by PID 12"),
        "rank 1: Signal 9 (SIGKILL) received by PID 12",
    ),
    "ranks without a launcher": (
        f"{marked('[rank3]: ', trace(REAL))}\n{marked('[rank0]: ', trace('OSError: timeout'))}",
        REAL,
    ),
    "srun --label": (f"{marked('1: ', trace(REAL))}\n{marked('0: ', trace('OSError: x'))}", REAL),
    "a rank that retried": (
        f"{marked('[rank3]: ', trace('OSError: first try'))}\n{marked('[rank3]: ', trace(REAL))}",
        REAL,
    ),
    "accelerate": (
        f"{trace(REAL)}\n{WANDB}\n"
        + trace("subprocess.CalledProcessError: Command 'python' returned 1."),
        REAL,
    ),
    "torchrun, of a program without a traceback": (
        "python: can't open file 'x.py'\nE1128 19:00:00 11 api.py:869] failed (exitcode: 2)\n"
        + trace("torch.elastic.ChildFailedError: "),
        "python: can't open file 'x.py' (then torch.elastic.ChildFailedError:)",
    ),
    "a command that failed": (
        trace("subprocess.CalledProcessError: Command 'git' returned 1."),
        "subprocess.CalledProcessError: Command 'git' returned 1.",
    ),
    "spawn": (
        trace("torch.multiprocessing.spawn.ProcessRaisedException: \n\n"
              f"-- Process 1 terminated with the following error:\n{trace(REAL)}\n"),
        REAL,
    ),
    "a process pool": (REMOTE + CAUSED + trace(REAL), REAL),
    "a process of its own": (
        f"Process Process-1:\n{trace(REAL)}\n{trace('RuntimeError: a process died')}", REAL,
    ),
    "a data loader": (
        trace("ValueError: Caught ValueError in DataLoader worker process 0.\n"
              f"Original {trace(REAL)}\n"),
        REAL,
    ),
    "a pipe that closed": (f"{trace(REAL)}\n{trace('BrokenPipeError: [Errno 32]')}", REAL),
    "ignored at exit": (
        f"{trace(REAL)}\nException ignored in: <function f>\n{trace('TypeError: None')}", REAL,
    ),
    "in a thread, and then": (
        f"Exception in thread Thread-1 (f):\n{trace('OSError: thread')}\n{trace(REAL)}", REAL,
    ),
    "in a thread alone": (f"Exception in thread Thread-1 (f):\n{trace(REAL)}", REAL),
    "C++": (
        "terminate called after throwing an instance of 'c10::Error'\n  what():  the real reason\n"
        "Aborted (core dumped)",
        "terminate called after throwing an instance of 'c10::Error' what():  the real reason",
    ),
    "a crash at exit": (f"{trace(REAL)}\nterminate called without an active exception", REAL),
    "a crash": (
        "Fatal Python error: Segmentation fault\n\nCurrent thread 0x1 (most recent call first):\n"
        '  File "/w/t.py", line 4 in <module>\n\nExtension modules: numpy',
        "Fatal Python error: Segmentation fault",
    ),
    "a crash long after an error that was survived": (
        f"{trace('OSError: retried')}\n{FOREVER}\nrun.sh: line 3:  99 Segmentation fault  ./train",
        "run.sh: line 3:  99 Segmentation fault  ./train",
    ),
    "Rust": (
        "thread 'main' panicked at src/main.rs:2:5:\nthe real reason\nnote: RUST_BACKTRACE=1",
        "thread 'main' panicked at src/main.rs:2:5: the real reason",
    ),
    "an error that was survived long ago": (f"{trace(REAL)}\n{FOREVER}\nno data", None),
    "no Python": ("run.sh: line 3: foo: command not found", None),
    "a usage error": ("usage: t.py [-h]\nt.py: error: unrecognized arguments: --x", None),
    "a header alone": (HEADER, None),
    "cut at the start": (f"    step(batch)\n{REAL}", None),
    "nothing": ("", None),
}  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), TABLE.values(), ids=TABLE)
def test_the_cause_is_the_root_of_the_final_traceback(text: str, expected: str | None) -> None:
    assert cause_of(text) == expected


PIECES = st.sampled_from(
    [line for text, _ in TABLE.values() for line in text.split("\n")[:40]] + ["[rank1]: ", "  | "]
)


@settings(max_examples=50)
@given(st.lists(PIECES | st.text(max_size=40) | st.tuples(PIECES, PIECES).map("".join)))
def test_no_output_is_too_strange(lines: list[str]) -> None:
    found = find_cause(lines)
    assert found is None or all(found.exceptions)


@given(st.lists(st.text(max_size=30)), st.lists(st.text("ab c:\n", max_size=30), max_size=90))
def test_a_traceback_is_found_whatever_is_printed_around_it(
    before: list[str], after: list[str]
) -> None:
    text = "\n".join([*before, "", trace("app.Bad: no"), "", *after])
    assert "app.Bad: no" in (cause_of(text) or "")


@pytest.mark.parametrize(
    "line",
    ["[rank{n}]: " + HEADER, "{n}", HEADER, " " * 100_000 + HEADER, "|+" * 20_000 + HEADER,
     "a.b" * 30_000 + "!", "x: " * 30_000, "x: " * 30_000 + "\x00", f"{'─' * 9000}{HEADER} +",
     "File \"" * 10_000, f"[r{{n}}]: {HEADER}\n[r{{n}}]:   | x", trace(REAL) + HANDLED,
     "    +---------------- {n} ----------------", "terminate called after throwing:"],
)  # fmt: skip
def test_half_a_megabyte_of_anything_takes_no_time(line: str) -> None:
    lines = "\n".join(line.format(n=n) for n in range(1 + 500_000 // len(line))).split("\n")
    begun = time.process_time()
    find_cause(lines)
    assert time.process_time() - begun < 5
