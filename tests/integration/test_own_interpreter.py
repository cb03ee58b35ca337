"""A job's own PATH comes before the worker's: its interpreter runs the program and its children."""

from __future__ import annotations

import os
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from jobs.model.states import State
from tests.integration.one_worker import Bench, python
from worker.launch.fork_client import ForkServerClient

SCRIPT = """
import os, subprocess, sys
print("program", sys.prefix, "torch" in sys.modules, flush=True)
subprocess.run(["python", "-c", "import sys; print('child', sys.prefix)"], check=True)
subprocess.run("python -c 'import sys; print(\\"shell\\", sys.prefix)'", shell=True, check=True)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with a Python, as conda or venv makes one."""
    directory = tmp_path_factory.mktemp("environment")
    venv.create(directory, symlinks=True)
    return directory


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "program.py").write_text(SCRIPT)
    return str(tmp_path / "program.py")


@pytest.fixture
def bench(both: Bench) -> Bench:
    return both


def test_the_python_of_the_jobs_path_runs_the_program_and_what_it_starts(
    bench: Bench, environment: Path, script: str
) -> None:
    spec = python("", command=["python", script], env={"PATH": str(environment / "bin")})
    job = bench.run(spec)
    assert job.state is State.SUCCEEDED, bench.output(job)
    output = bench.output(job)
    assert f"program {environment} False\n" in output
    assert f"child {environment}\n" in output
    assert f"shell {environment}\n" in output


def test_what_the_jobs_path_lacks_is_found_in_the_workers(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    tool = tmp_path / "tools/tool"
    tool.write_text("#!/bin/sh\npython -c 'import sys; print(sys.prefix)'")
    tool.chmod(0o755)
    spec = python("", command=["tool"], env={"PATH": str(tool.parent)})
    job = bench.run(spec)
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert f"[1] {sys.prefix}\n" in bench.output(job)


def test_a_relative_entry_is_searched_from_the_working_directory(
    runner: Any, warm: ForkServerClient, environment: Path, script: str
) -> None:
    (runner.cwd / "env").symlink_to(environment)
    path = os.pathsep.join(["env/bin", str(Path(sys.executable).parent), os.environ["PATH"]])
    run = runner.run(warm.start, ["python", script], PATH=path)
    assert run.code == 0, run.output
    assert str(sys.prefix) not in run.output
