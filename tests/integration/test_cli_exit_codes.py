"""Each exit code that is documented, from the command line itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from api.cli.shared.commands import EXIT_CODES, Exit
from jobs.model.record import Attempt, Job
from jobs.model.spec import JobSpec
from jobs.model.states import Reason
from jobs.store.jobs import JobStore
from tests.integration.warm_python import Program, WarmPython

Start = Callable[..., Program]
NOBODY = ("--url", "http://127.0.0.1:1", "--timeout", "0")
REASONS: dict[Exit, list[tuple[str, ...]]] = {
    Exit.DONE: [
        ("ls",), ("show", "good"), ("watch", "good"), ("diff", "good", "good", "--exit-code"),
        ("submit", "job.yaml"), ("--help",), ("cancel", "--all", "--name", "nobody"),
    ],
    Exit.FAILED: [
        ("show", "nobody"), ("cancel", "bad"), ("cancel", "good"),  # several; it has ended
        ("show", "nobody-23456789"), (*NOBODY, "ls"), (*NOBODY, "submit", "job.yaml", "--dry-run"),
        ("submit", "odd.yaml"), ("watch", "bad"),
        ("submit", "--workspace", "nowhere", "--", "true"),
        ("diff", "good", "bad", "--exit-code"), ("logs", "good", "--failed"),
        ("doctor", "--data", "nowhere"),
    ],
    Exit.WRONG_CALL: [
        ("show",), ("nothing",), ("ls", "--state", "odd"), ("submit",), ("submit", "missing.yaml"),
        ("logs", "good", "--since", "soon"), ("diff", "good"), ("change", "good"),
        ("--profile", "nobody", "ls"), ("--token", "a b", "ls"), ("completion", "tcsh"),
    ],
}  # fmt: skip


@pytest.fixture
def start(warm_python: WarmPython, api_url: str, store: JobStore, tmp_path: Path) -> Start:
    """Starts the command line beside files, with a job that succeeded and two that failed."""
    (tmp_path / "job.yaml").write_text("name: a\ncommand: ['true']\n")
    (tmp_path / "odd.yaml").write_text("name: a\nwords: ['true']\n")
    for name, reason in (("good", Reason.COMPLETED), ("bad", Reason.ERROR), ("bad", Reason.ERROR)):
        store.submit(JobSpec.model_validate(
            {"name": name, "command": ["t"], "env": {"A": name}, "retry": {"max_failures": 0}}
        ))  # fmt: skip
        job = store.claim("default", "w")
        assert job is not None
        store.finish(job.id, Attempt(number=1, worker="w", started_at=1.0, ended_at=2.0,
                                     reason=reason))  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("SPECTRAIN_")}
    env |= {"SPECTRAIN_URL": api_url, "XDG_CONFIG_HOME": str(tmp_path)}
    return partial(warm_python.start, "api.cli", env=env, cwd=tmp_path)


@pytest.mark.parametrize(
    ("code", "words"), [(code, words) for code, all_words in REASONS.items() for words in all_words]
)
def test_a_command_ends_with_the_code_that_is_documented(
    start: Start, code: Exit, words: tuple[str, ...]
) -> None:
    process = start(*words)
    assert process.wait(60) == code, process.stderr
    assert "Traceback" not in process.stderr
    if code is not Exit.DONE and "--exit-code" not in words:
        assert process.stderr.strip(), "it says why"


def test_ctrl_c_ends_with_its_own_code(
    start: Start, store: JobStore, wait_until: Callable[..., Any]
) -> None:
    job: Job = store.submit(JobSpec(name="long", command=["t"]))
    process = start("watch", job.id)
    wait_until(lambda: job.id in process.stdout, what="its state")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == Exit.INTERRUPTED
    assert "goes on" in process.stderr
    assert EXIT_CODES.keys() == {*REASONS, Exit.INTERRUPTED}, "each code is tried here"
