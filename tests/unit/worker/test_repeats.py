"""A failure that will repeat is not repeated."""

from __future__ import annotations

import pytest

from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, State
from worker.attempt.outcome import outcome
from worker.failures.repeats import SHORT_SECONDS, will_repeat

HERE, THERE = "a-17-0f0f", "b-4-1e1e"
TRACE = ["Traceback (most recent call last):", '  File "t.py", line 3, in f']
HANDLED = ["", "During handling of the above exception, another exception occurred:", ""]
CERTAIN = {
    "a typo in the path": (2, ["python: can't open file '/w/trian.py': [Errno 2] No such file"]),
    "no such module": (1, ["/usr/bin/python3: No module named trian"]),
    "a missing module": (1, [*TRACE, "ModuleNotFoundError: No module named 'wave'", "wandb: bye"]),
    "a missing name": (1, [*TRACE, "ImportError: cannot import name 'x' from 'y'"]),
    "a syntax error": (1, ['  File "t.py", line 1', "    def f(:", "SyntaxError: invalid syntax"]),
    "bad arguments": (2, ["usage: t.py [-h]", "t.py: error: unrecognized arguments: --x"]),
    "a bad option": (2, ["Usage: t [OPTIONS]", "", "Error: No such option: --x"]),
    "no such command": (127, ["cannot start trian: No such file or directory"]),
    "no such command in a script": (127, ["run.sh: line 3: trian: command not found"]),
    "a command that is not executable": (126, ["sh: 1: ./train: Permission denied"]),
    "a fallback that is missing too": (
        1, [*TRACE, "ModuleNotFoundError: a", *HANDLED, *TRACE, "ModuleNotFoundError: b"],
    ),
}  # fmt: skip
UNCERTAIN = {
    "any exception": (1, [*TRACE, "OSError: cannot reach the hub"]),
    "a fallback that failed": (
        1, [*TRACE, "ModuleNotFoundError: a", *HANDLED, *TRACE, "OSError: cannot reach the hub"],
    ),
    "a last line": (1, ["no data"]),
    "exit code 2 alone": (2, ["no data"]),
    "a module's file": (1, [*TRACE, "FileNotFoundError: [Errno 2] No such file: 'a.csv'"]),
}  # fmt: skip
SILENT = {"no output": (127, []), "a kill": (137, ["step 3"])}


def failed(end: tuple[int, list[str]], number: int = 1, worker: str = HERE) -> Attempt:
    ended = outcome(end[0], None, end[1], zero_means_done=False)
    return Attempt(
        number=number, worker=worker, started_at=0.0, ended_at=3.0, reason=ended.reason,
        message=ended.message, exit_code=ended.exit_code,
    )  # fmt: skip


def repeats(
    *attempts: Attempt, end: tuple[int, list[str]], machines: str = "a", **retry: object
) -> bool:
    spec = JobSpec.model_validate({"name": "a", "command": ["true"], "retry": retry})
    current = attempts[-1].model_copy(update={"reason": None, "ended_at": None, "message": ""})
    job = Job(
        id="a-1", spec=spec, state=State.RUNNING, sequence=1, attempt=len(attempts), priority=5,
        submitted_at=0.0, queued_at=0.0, attempts=[*attempts[:-1], current],
    )  # fmt: skip
    words = outcome(end[0], None, end[1], zero_means_done=False).words
    return will_repeat(job, attempts[-1], words, set(machines))


@pytest.mark.parametrize("end", CERTAIN.values(), ids=CERTAIN)
def test_a_program_that_cannot_be_started_is_started_once(end: tuple[int, list[str]]) -> None:
    assert repeats(failed(end), end=end)


@pytest.mark.parametrize("end", UNCERTAIN.values(), ids=UNCERTAIN)
def test_the_same_failure_twice_is_the_last_one(end: tuple[int, list[str]]) -> None:
    assert not repeats(failed(end), end=end)
    assert repeats(failed(end), failed(end, 2), end=end)
    other = failed((1, ["another reason"]))
    assert not repeats(other, failed(end, 2), end=end)
    assert not repeats(other, failed(end, 2), failed(end, 3), end=end), "it may be a bad moment"


@pytest.mark.parametrize("end", SILENT.values(), ids=SILENT)
def test_a_program_that_said_nothing_has_all_its_tries(end: tuple[int, list[str]]) -> None:
    assert not repeats(failed(end), failed(end, 2), end=end)


@pytest.mark.parametrize(
    "change",
    [
        {"last_step": 0},
        {"checkpoint_step": 5},
        {"reason": Reason.LOST},
        {"reason": Reason.PREEMPTED},
        {"ended_at": SHORT_SECONDS + 1},
    ],
)
@pytest.mark.parametrize("end", [CERTAIN["a missing module"], UNCERTAIN["a last line"]])
def test_a_job_that_got_further_once_has_all_its_tries(
    end: tuple[int, list[str]], change: dict[str, object]
) -> None:
    further = failed(end).model_copy(update=change)
    assert not repeats(further, failed(end, 2), end=end)
    assert not repeats(failed(end), further.model_copy(update={"number": 2}), end=end)


def test_one_machine_does_not_condemn_a_job_that_another_could_run() -> None:
    end = CERTAIN["a missing module"]
    assert not repeats(failed(end), end=end, machines="ab")
    assert not repeats(failed(end), failed(end, 2), end=end, machines="ab")
    assert repeats(failed(end), failed(end, 2, THERE), end=end, machines="abc")
    assert repeats(failed(end), failed(end, 2), end=end, machines="a")


def test_an_exit_code_that_the_job_names_is_always_retried() -> None:
    end = UNCERTAIN["a last line"]
    assert not repeats(failed(end), failed(end, 2), end=end, on_exit_codes=[1, 75])
    assert repeats(failed(end), failed(end, 2), end=end, not_on_exit_codes=[75])


def test_what_differs_between_processes_makes_no_difference() -> None:
    first, second = ((1, [f"bad object at 0x7f{n} (pid {n})"]) for n in (1, 2))
    assert repeats(failed(first), failed(second, 2), end=second)
    first, second = ((1, [f"bad sample {n}"]) for n in (1, 2))
    assert not repeats(failed(first), failed(second, 2), end=second)
