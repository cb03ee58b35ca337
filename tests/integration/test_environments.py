"""A job brings its packages: installed once per machine, on top of the worker's own."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.model.spec import JobSpec
from jobs.model.states import Reason, Request, State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.one_worker import Bench, DiskOf
from tests.integration.test_workspace_runs import again, said, send
from tests.integration.worker_processes import Workers
from tests.wheels import make_wheel
from worker.cache.entries import entries

Wait = Callable[..., Any]

SAYS = """
import sys
from importlib.metadata import version
import tiny
print("tiny", tiny.VERSION, "click", version("click"), "prefix", sys.prefix, flush=True)
"""


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(folder, "tiny", "1.0", requires=["click", "small"], scripts=["tiny-run"])
    make_wheel(folder, "tiny", "2.0", requires=["click", "small"], scripts=["tiny-run"])
    make_wheel(folder, "small")
    return folder


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    (root / "train.py").write_text(SAYS)
    (root / "requirements.txt").write_text("tiny==1.0\n")
    return root


@pytest.fixture
def spec(bench: Bench, code: Path, wheels: Path) -> Callable[..., JobSpec]:
    """A job with the code as it is then, whose packages come from `wheels` alone."""

    def make(requirements: str | None = "requirements.txt", **changes: object) -> JobSpec:
        env = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)} | changes.pop("env", {})  # type: ignore[operator]
        fields = {
            "name": "a", "command": ["python", "train.py"], "env": env,
            "workspace": send(bench.storage, code), "retry": {"backoff_seconds": 0},
        }  # fmt: skip
        if requirements is not None:
            fields["environment"] = {"requirements": requirements}
        return JobSpec.model_validate({**fields, **changes})

    return make


Spec = Callable[..., JobSpec]


def environments(bench: Bench) -> list[Path]:
    found = entries(bench.settings.cache_path)
    return [one.path for one in found if one.kind == "environment" and one.size() is not None]


def installed(environment: Path) -> set[str]:
    found = environment.glob("python/lib/python*/site-packages/*.dist-info")
    return {path.name.partition("-")[0] for path in found}


def test_it_has_its_packages_on_top_of_the_workers(bench: Bench, spec: Spec) -> None:
    job = bench.run(spec())
    assert job.state is State.SUCCEEDED, (job.message, bench.output(job))
    assert said(bench, job, 1, "tiny").startswith("[1] tiny 1.0 click 8")
    assert "built in" in said(bench, job, 1, "--- environment of requirements.txt: built")
    (environment,) = environments(bench)
    assert installed(environment) == {"tiny", "small"}  # click is the worker's
    (attempt,) = job.attempts
    assert attempt.environment_seconds is not None
    assert not (environment / "tmp").exists()


def test_it_is_built_once_for_all_jobs_that_have_the_same(bench: Bench, spec: Spec) -> None:
    first, second = bench.run(spec()), bench.run(spec())
    assert "is being built" in bench.output(first)
    assert "from the cache of this machine" in said(bench, second, 1, "--- environment")
    assert second.state is State.SUCCEEDED
    assert len(environments(bench)) == 1


def test_other_requirements_are_another_environment(bench: Bench, code: Path, spec: Spec) -> None:
    bench.run(spec())
    (code / "requirements.txt").write_text("tiny==2.0\n")
    job = bench.run(spec())
    assert said(bench, job, 1, "tiny").startswith("[1] tiny 2.0")
    (code / "requirements.txt").write_text("tiny==1.0\n")
    job = bench.run(spec(env={"PIP_EXTRA_INDEX_URL": "https://elsewhere"}))
    assert len(environments(bench)) == 3


@pytest.mark.parametrize(
    "form",
    ["included", "pyproject.toml", "script", "uv.lock"],
)
def test_every_form_of_requirements(
    bench: Bench, code: Path, wheels: Path, spec: Spec, form: str
) -> None:
    (code / "requirements.txt").unlink()
    if form == "included":
        (code / "deps").mkdir()
        (code / "deps/all.txt").write_text("# all\n-r base.in  # the rest\n-c pins.txt\n")
        (code / "deps/base.in").write_text("tiny \\\n  >= 1.0\n")
        (code / "deps/pins.txt").write_text("tiny<2\n")
        requirements = "deps/all.txt"
    elif form == "script":
        header = '# /// script\n# dependencies = [\n#   "tiny<2",\n# ]\n# ///\n'
        (code / "train.py").write_text(header + SAYS)
        requirements = "train.py"
    else:
        (code / "pyproject.toml").write_text(
            '[project]\nname = "mine"\nversion = "1"\nrequires-python = ">=3.11"\n'
            'dependencies = ["tiny<2"]\n'
        )
        requirements = "pyproject.toml"
    if form == "uv.lock":
        (code / "uv.lock").write_text(lock(wheels))
        requirements = "uv.lock"
    job = bench.run(spec(requirements))
    assert job.state is State.SUCCEEDED, (job.message, bench.output(job))
    assert said(bench, job, 1, "tiny").startswith("[1] tiny 1.0")


def lock(wheels: Path) -> str:
    """A lock of tiny 1.0, small and another torch than the worker's."""
    packages = {
        "tiny": ["small", "torch"],
        "small": [],
        "torch": ["nvidia_none"],
        "nvidia_none": [],
    }
    blocks = []
    for name, dependencies in packages.items():
        wheel = wheels / f"{name}-1.0-py3-none-any.whl"
        digest = hashlib.sha256(wheel.read_bytes() if wheel.exists() else b"").hexdigest()
        needs = "".join(f'    {{ name = "{one}" }},\n' for one in dependencies)
        blocks.append(
            f'[[package]]\nname = "{name}"\nversion = "1.0"\n'
            'source = { registry = "https://pypi.org/simple" }\n'
            f"dependencies = [\n{needs}]\n"
            f'wheels = [\n    {{ url = "https://files.pythonhosted.org/{wheel.name}", '
            f'hash = "sha256:{digest}", size = 1 }},\n]\n'
        )
    own = (
        '[[package]]\nname = "mine"\nversion = "1"\nsource = { virtual = "." }\n'
        'dependencies = [\n    { name = "tiny" },\n]\n'
        '[package.metadata]\nrequires-dist = [{ name = "tiny", specifier = "<2" }]\n'
    )
    return 'version = 1\nrequires-python = ">=3.11"\n' + "\n".join([*blocks, own])


def test_programs_of_either_layer_run_with_the_jobs_packages(bench: Bench, spec: Spec) -> None:
    script = 'tiny-run; head -n 1 "$(command -v torchrun)"; command -v pip'
    job = bench.run(spec(command=["bash", "-c", script]))
    assert job.state is State.SUCCEEDED, bench.output(job)
    own = f"{bench.settings.scratch_dir}/{job.id}/0/environment"
    assert f"[1] tiny 1.0 {own}" in bench.output(job)
    assert f"[1] #!{own}/bin/python" in bench.output(job)
    assert f"[1] {own}/bin/pip" in bench.output(job)


def test_the_workers_torch_is_used(bench: Bench, code: Path, wheels: Path, spec: Spec) -> None:
    make_wheel(wheels, "torch", "2.12.0")
    (code / "requirements.txt").write_text("tiny==1.0\ntorch==2.12.0\n")
    job = bench.run(spec())
    assert job.state is State.FAILED
    assert "Cannot install torch==2.12.0 because" in job.message
    assert "The user requested torch==2.12.0; The user requested (constraint) torch" in job.message
    assert environments(bench) == []


def test_what_does_not_resolve_fails_at_once_with_the_last_line(
    bench: Bench, code: Path, spec: Spec
) -> None:
    (code / "requirements.txt").write_text("tiny==7\n")
    job = bench.run(spec())
    assert job.state is State.FAILED
    assert job.attempt == 1
    assert job.message == (
        "the environment of requirements.txt could not be built: exit code 1: "
        "Could not find a version that satisfies the requirement tiny==7 (from versions: 1.0, 2.0) "
        "(not retried)"
    )
    (attempt,) = job.attempts
    assert attempt.log_tail[-1] == "ERROR: No matching distribution found for tiny==7"
    assert "No matching distribution" in bench.output(job)
    assert environments(bench) == []
    assert bench.run(JobSpec(name="next", command=["true"])).state is State.SUCCEEDED


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("-e .", "requirements.txt: `-e .` names files of a machine"),
        ("-r ../x.txt", "includes ../x.txt, which is not in the workspace"),
        ("-r nothing.txt", "the workspace has no file nothing.txt"),
    ],
)
def test_a_file_that_cannot_be_shared_is_refused(
    bench: Bench, code: Path, spec: Spec, line: str, said: str
) -> None:
    (code / "requirements.txt").write_text(f"tiny\n{line}\n")
    job = bench.run(spec())
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert said in job.message


def test_an_index_that_is_away_is_tried_again(bench: Bench, spec: Spec) -> None:
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/simple"
        env = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": url,
               "PIP_EXTRA_INDEX_URL": "", "PIP_RETRIES": "1"}  # fmt: skip
        job = bench.run(spec(env=env))
    assert job.state is State.QUEUED
    (attempt,) = job.attempts
    assert attempt.reason is Reason.ERROR
    assert "the package index could not be reached" in attempt.message


def test_a_resumed_attempt_has_the_same_packages(
    bench: Bench, code: Path, spec: Spec, wait_until: Wait
) -> None:
    waits = "import os, signal\nopen('ckpt', 'w').write('x')\nprint('waits', flush=True)\n"
    (code / "train.py").write_text(
        f"{SAYS}{waits}if os.environ['SPECTRAIN_RESUMED'] == '0':\n    signal.pause()\n"
    )
    job = bench.claim(spec())
    thread = bench.begin(job)
    wait_until(lambda: "waits" in bench.output(job), what="the program")
    bench.store.request(job.id, Request.PREEMPT)
    bench.shutdown_state.notify_request()
    thread.join(60)
    job = again(bench)
    assert job.state is State.SUCCEEDED, (job.message, bench.output(job))
    assert said(bench, job, 2, "tiny").startswith("[2] tiny 1.0")
    assert "from the cache" in said(bench, job, 2, "--- environment")


@pytest.fixture
def silent_index() -> Iterator[str]:
    """The address of an index that accepts a connection, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple"


def test_a_build_can_be_cancelled(
    bench: Bench, spec: Spec, silent_index: str, wait_until: Wait
) -> None:
    env = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": silent_index,
           "PIP_EXTRA_INDEX_URL": ""}  # fmt: skip
    job = bench.claim(spec(env=env))
    thread = bench.begin(job)
    wait_until(lambda: "is being built" in bench.output(job), what="the build")
    bench.store.request(job.id, Request.CANCEL)
    bench.shutdown_state.notify_request()
    thread.join(60)
    assert bench.store.get(job.id).state is State.CANCELLED
    assert environments(bench) == []
    assert pips(bench.settings) == []


def test_two_workers_of_a_machine_build_it_once(
    settings: Settings, store: JobStore, spec: Spec
) -> None:
    workers, jobs = [Bench(settings, store) for _ in range(2)], []
    for name in ("one", "two"):
        store.submit(spec())
        jobs.append(store.claim("default", name))
    threads = [worker.begin(job) for worker, job in zip(workers, jobs, strict=True) if job]
    for thread in threads:
        thread.join(120)
    logs = "".join(workers[0].output(job) for job in jobs if job)
    assert [store.get(job.id).state for job in jobs if job] == [State.SUCCEEDED] * 2
    assert logs.count("is being built") == 1
    assert logs.count("waits for another worker, which builds it") == 1


def test_a_killed_worker_leaves_no_builder_and_nothing_that_counts(
    settings: Settings, store: JobStore, spec: Spec, workers: Workers, silent_index: str,
    wait_until: Wait,
) -> None:  # fmt: skip
    away = {"PIP_NO_INDEX": "0", "PIP_FIND_LINKS": "", "PIP_INDEX_URL": silent_index,
            "PIP_EXTRA_INDEX_URL": ""}  # fmt: skip
    worker = workers.start()
    job = store.submit(spec(env=away))
    (_, guard), *_ = wait_until(lambda: pips(settings), what="pip")
    (lock,) = settings.cache_path.glob("environment/*.lock")
    os.kill(guard, signal.SIGSTOP)  # as on a machine that is too busy to run it
    worker.kill()
    assert is_locked(lock)
    os.kill(guard, signal.SIGCONT)
    wait_until(lambda: not pips(settings), what="its end")
    wait_until(lambda: not is_locked(lock), what="the lock")
    store.request(job.id, Request.CANCEL)
    workers.start()
    second = store.submit(spec(name="second"))
    wait_until(lambda: store.get(second.id).state.is_final, what="the second job")
    assert store.get(second.id).state is State.SUCCEEDED, store.get(second.id).message


def pips(settings: Settings) -> list[tuple[int, int]]:
    """The processes that build in the cache, and their parents."""
    every = subprocess.run(
        ["ps", "-wweo", "pid,ppid,args"], capture_output=True, text=True, check=True
    )
    lines = [line.split() for line in every.stdout.splitlines() if str(settings.cache_path) in line]
    return [(int(pid), int(parent)) for pid, parent, *_ in lines]


def is_locked(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_full_disk_of_the_cache_is_said(
    settings: Settings, store: JobStore, code: Path, wheels: Path, spec: Spec, disk_of: DiskOf
) -> None:
    make_wheel(wheels, "large", padding=30_000_000)
    (code / "requirements.txt").write_text("large\n")
    small = settings.model_copy(update={"cache_dir": str(disk_of("20m"))})
    bench = Bench(small, store)
    job = bench.run(spec())
    assert job.state is State.QUEUED
    assert job.attempts[0].reason is Reason.STORAGE
    assert "the disk of the cache" in job.attempts[0].message
    store.request(job.id, Request.CANCEL)
    (code / "requirements.txt").write_text("small\n")
    (code / "train.py").write_text("import small\n")
    job = bench.run(spec(name="next"))
    assert job.state is State.SUCCEEDED, (job.message, bench.output(job))


# -- setup ----------------------------------------------------------------------------------------


def test_setup_runs_before_the_program_in_its_directory(bench: Bench, spec: Spec) -> None:
    setup = [
        "pip install --quiet tiny==2.0",
        'echo "$OF" > made.txt; mkdir -p built; touch built/x',
    ]
    script = "python train.py; cat made.txt; touch own.txt"
    job = bench.run(spec(None, setup=setup, run=script, command=None, env={"OF": "setup"}))
    assert job.state is State.SUCCEEDED, bench.output(job)
    assert said(bench, job, 1, "tiny").startswith("[1] tiny 2.0")
    assert "[1] setup" in bench.output(job)
    assert job.attempts[0].setup_seconds is not None
    # What setup made is made by each attempt: it is not the run's.
    work = bench.files(job).root / "work"
    assert sorted(p.name for p in work.rglob("*") if p.is_file()) == ["own.txt"]


def test_what_setup_made_is_nothing_to_resume_from(
    bench: Bench, spec: Spec, wait_until: Wait
) -> None:
    program = (
        "import os, signal\nprint('resumed', os.environ['SPECTRAIN_RESUMED'], flush=True)\n"
        "if os.environ['SPECTRAIN_ATTEMPT'] == '1':\n    signal.pause()\n"
    )
    job = bench.claim(spec(None, setup=["echo x > made.txt"], command=["python", "-uc", program]))
    thread = bench.begin(job)
    wait_until(lambda: "resumed" in bench.output(job), what="the program")
    bench.store.request(job.id, Request.PREEMPT)
    bench.shutdown_state.notify_request()
    thread.join(60)
    job = again(bench)
    assert job.state is State.SUCCEEDED, (job.message, bench.output(job))
    assert said(bench, job, 2, "resumed") == "[2] resumed 0"


def test_what_an_attempt_installs_is_its_own(bench: Bench, spec: Spec) -> None:
    first = bench.run(spec(setup=["pip install --quiet --upgrade tiny==2.0"]))
    second = bench.run(spec())
    assert said(bench, first, 1, "tiny").startswith("[1] tiny 2.0")
    assert said(bench, second, 1, "tiny").startswith("[1] tiny 1.0")


def test_a_setup_command_that_fails_ends_the_job_with_its_reason(bench: Bench, spec: Spec) -> None:
    bad = ["true", "python -c \"raise ValueError('no data here')\"", "echo never"]
    job = bench.run(spec(None, setup=bad))
    assert (job.state, job.attempt) == (State.FAILED, 1)
    assert job.message.startswith("setup command 2 (python -c ")
    assert "exit code 1: ValueError: no data here" in job.message
    assert job.attempts[0].log_tail[-1] == "ValueError: no data here"
    assert "[1] never" not in bench.output(job)
    assert bench.run(JobSpec(name="next", command=["true"])).state is State.SUCCEEDED


@pytest.mark.parametrize("why", ["cancel", "timeout"])
def test_setup_can_be_ended(bench: Bench, spec: Spec, wait_until: Wait, why: str) -> None:
    limits = {"run_seconds": 1.0} if why == "timeout" else {}
    job = bench.claim(spec(None, setup=["echo begins; sleep 600"], limits=limits))
    thread = bench.begin(job)
    if why == "cancel":
        wait_until(lambda: "begins" in bench.output(job), what="the command")
        bench.store.request(job.id, Request.CANCEL)
        bench.shutdown_state.notify_request()
    thread.join(60)
    job = bench.store.get(job.id)
    expected = State.CANCELLED if why == "cancel" else State.FAILED
    assert job.state is expected
    assert job.reason is (Reason.CANCELLED if why == "cancel" else Reason.TIMEOUT)


# -- an interpreter -------------------------------------------------------------------------------


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """An interpreter with a package that the worker does not have, and without the worker's."""
    root = tmp_path / "other"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    (packages,) = root.glob("lib/python*/site-packages")
    (packages / "only_here.py").write_text("HERE = 'yes'\n")
    return root / "bin" / "python"


def test_python_chooses_the_interpreter(bench: Bench, spec: Spec, other_python: Path) -> None:
    program = "import only_here, sys; print('here', only_here.HERE, sys.executable)"
    job = bench.run(spec(None, python=str(other_python), command=["python", "-c", program]))
    assert said(bench, job, 1, "here") == f"[1] here yes {other_python}"


def test_an_environment_on_top_of_another_interpreter(
    bench: Bench, code: Path, spec: Spec, other_python: Path
) -> None:
    (code / "requirements.txt").write_text("small\n")
    (code / "train.py").write_text("import only_here, small; print('both', small.VERSION)\n")
    job = bench.run(spec(python=str(other_python)))
    assert job.state is State.SUCCEEDED, (job.message, bench.output(job))
    assert said(bench, job, 1, "both") == "[1] both 1.0"


@pytest.mark.parametrize("path", ["/nowhere/python", "/bin/true", "/bin/false"])
def test_an_interpreter_that_is_none(bench: Bench, spec: Spec, path: str) -> None:
    job = bench.run(spec(None, python=path, retry={"max_failures": 0}))
    assert job.state is State.FAILED
    assert f"this worker cannot use {path}: " in job.message
