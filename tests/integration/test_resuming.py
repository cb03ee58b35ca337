"""A program that must be told to resume is told so when it has something to go on from."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.model.words import SUBMITTED
from tests.integration.one_worker import Bench

Wait = Callable[..., Any]

# As nanoGPT: it makes its folder, saves one file, and resumes only if it is told to.
PROGRAM = """
import os, pathlib, signal, sys
attempt = os.environ["SPECTRAIN_ATTEMPT"]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
print("words", sys.argv[1:], "resumed", os.environ["SPECTRAIN_RESUMED"], flush=True)
out = pathlib.Path("out")
if "--resume" in sys.argv:
    print("goes on from", (out / "ckpt.pt").read_text(), flush=True)
else:
    out.mkdir(exist_ok=True)
saves = os.environ["SAVES"].split(",")
if attempt in saves:
    (out / "ckpt.pt").write_text(attempt)
if attempt == os.environ.get("LOGS"):
    pathlib.Path("train.log").write_text("begun")
if attempt != "3":
    print("waits", flush=True)
    signal.pause()
"""
RUN = """
if [ "$SPECTRAIN_RESUMED" = 1 ]; then set -- --resume; fi
python "$PROGRAM" "$@" | cat
"""


@pytest.fixture
def program(tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(PROGRAM)
    return str(tmp_path / "program.py")


def to_its_end(bench: Bench, wait_until: Wait, fields: dict[str, Any]) -> Job:
    """The job after all its attempts; those that wait are preempted."""
    fields = {"name": "a", "retry": {"backoff_seconds": 0, "max_failures": 5}, **fields}
    job = bench.claim(JobSpec.model_validate(fields, context=SUBMITTED))
    while True:
        one_attempt(bench, wait_until, job)
        if bench.store.get(job.id).state.is_final:
            return bench.store.get(job.id)
        job = wait_until(lambda: bench.store.claim("default", "w"), what="another attempt")


def one_attempt(bench: Bench, wait_until: Wait, job: Job) -> None:
    thread, waits = bench.begin(job), f"[{job.attempt}] waits\n"
    wait_until(lambda: waits in bench.output(job) or not thread.is_alive(), what="the program")
    if thread.is_alive() and waits in bench.output(job):
        bench.store.request(job.id, Request.PREEMPT)
    thread.join(60)
    assert not thread.is_alive()


def lines(bench: Bench, job: Job, word: str) -> list[str]:
    """What follows the word in the lines of the output, with the attempt."""
    pattern = rf"^(\[\d+\]) {word} (.*)$"
    return [f"{mark} {rest}" for mark, rest in re.findall(pattern, bench.output(job), re.M)]


@pytest.mark.parametrize("restart", ["from_checkpoint", "from_scratch"])
def test_resume_args_come_once_there_is_a_file(
    both: Bench, wait_until: Wait, program: str, restart: str
) -> None:
    fields = {"command": ["python", program, "--lr", "0.1"], "resume_args": ["--resume"],
              "env": {"SAVES": "2"}, "restart": restart}  # fmt: skip
    job = to_its_end(both, wait_until, fields)
    assert job.state is State.SUCCEEDED, both.output(job)
    assert lines(both, job, "words") == [
        "[1] ['--lr', '0.1'] resumed 0",
        "[2] ['--lr', '0.1'] resumed 0",
        "[3] ['--lr', '0.1', '--resume'] resumed 1",
    ]
    assert "[3] goes on from 2\n" in both.output(job)
    assert '[3] --- with resume_args: ["--resume"]\n' in both.output(job)
    assert "[2] --- with" not in both.output(job)


@pytest.mark.parametrize(
    "command",
    [["sh", "-c", 'python "$0" && true', "PROGRAM"], ["env", "X=1", "python", "PROGRAM"]],
    ids=["a shell", "a launcher"],
)  # fmt: skip
def test_resume_command_replaces_any_command(
    bench: Bench, wait_until: Wait, program: str, command: list[str]
) -> None:
    words = [program if word == "PROGRAM" else word for word in command]
    fields = {"command": words, "resume_command": ["python", program, "--resume", "$(SAVES)"],
              "env": {"SAVES": "1"}}  # fmt: skip
    job = to_its_end(bench, wait_until, fields)
    assert lines(bench, job, "words") == [
        "[1] [] resumed 0",
        "[2] ['--resume', '1'] resumed 1",
        "[3] ['--resume', '1'] resumed 1",
    ], bench.output(job)


def test_a_script_asks_whether_it_is_resumed(bench: Bench, wait_until: Wait, program: str) -> None:
    env = {"SAVES": "2", "PROGRAM": program}
    job = to_its_end(bench, wait_until, {"run": RUN, "env": env})
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert lines(bench, job, "words")[2] == "[3] ['--resume'] resumed 1"


@pytest.mark.parametrize("pattern", ["out/*.pt", "ou?/"])
def test_a_log_is_nothing_to_go_on_from_if_the_job_says_what_is(
    bench: Bench, wait_until: Wait, program: str, pattern: str
) -> None:
    fields = {"command": ["python", program], "resume_args": ["--resume"],
              "resume_when": [pattern], "env": {"SAVES": "2", "LOGS": "1"}}  # fmt: skip
    job = to_its_end(bench, wait_until, fields)
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert [line[-1] for line in lines(bench, job, "words")] == ["0", "0", "1"]


def test_a_script_ends_with_the_first_failure(bench: Bench) -> None:
    for script in ("false | cat\n", "false\n", "echo $NOT_SET\n"):
        fields = {"name": "a", "run": f"{script}echo goes on\n", "retry": {"max_failures": 0}}
        job = bench.run(JobSpec.model_validate(fields, context=SUBMITTED))
        assert job.state is State.FAILED
        assert "goes on" not in bench.output(job)


def test_an_older_moment_in_which_there_was_nothing_is_nothing(
    bench: Bench, wait_until: Wait, program: str
) -> None:
    """The first attempt saves what cannot be loaded, late enough for a moment before it."""
    script = Path(program)
    script.write_text("""
import os, pathlib, sys, time
print("words", sys.argv[1:], "resumed", os.environ["SPECTRAIN_RESUMED"], flush=True)
pathlib.Path("out").mkdir(exist_ok=True)
if "--resume" in sys.argv:
    raise ValueError("no model")
if os.environ["SPECTRAIN_ATTEMPT"] == "1":
    time.sleep(3)
    pathlib.Path("out/ckpt.pt").write_text("poison")
    sys.exit(1)
""")
    fields = {"command": ["python", program], "resume_args": ["--resume"]}
    job = to_its_end(bench, wait_until, fields)
    assert [a.reason for a in job.attempts] == [Reason.ERROR, Reason.ERROR, Reason.COMPLETED]
    assert [line[-1] for line in lines(bench, job, "words")] == ["0", "1", "0"]


def test_what_the_service_and_the_library_note_is_nothing_to_go_on_from(
    bench: Bench, wait_until: Wait, program: str
) -> None:
    Path(program).write_text("""
import os, sys
from monitoring import ConfigTracker, MetricsLogger
root = os.environ["SPECTRAIN_RUN_DIR"]
print("resumed", os.environ["SPECTRAIN_RESUMED"], flush=True)
ConfigTracker(root).save_config({})
MetricsLogger(root + "/logs", 1).log_metrics(0, {"loss": 1.0})
sys.exit(os.environ["SPECTRAIN_ATTEMPT"] != "2")
""")
    job = to_its_end(bench, wait_until, {"command": [sys.executable, program],
                                         "restart": "from_scratch"})  # fmt: skip
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert lines(bench, job, "resumed") == ["[1] 0", "[2] 0"]
