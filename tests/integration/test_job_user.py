"""A job with a user of its own: all of it runs so, and nothing of it reaches others, or is left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.model.record import Job
from jobs.model.states import Request, State
from monitoring.storage.open import open_storage
from tests.integration.isolation import JOB_USER, MARK, ORDINARY, Place, places
from tests.integration.test_workspace_runs import send
from tests.wheels import make_wheel

Wait = Callable[..., Any]
UID = str(JOB_USER)
LEFT = f"spectrain-left-{JOB_USER}"


@pytest.fixture
def place(wait_until: Wait) -> Iterator[Place]:
    yield from places(wait_until)


def ended(place: Place, job: Job, wait_until: Wait) -> Job:
    wait_until(lambda: place.store.get(job.id).state.is_final, what="its end")
    found = place.store.get(job.id)
    assert found.state is State.SUCCEEDED, place.output(job) + place.log
    return found


@pytest.mark.parametrize("warm", ["0", "1"])
def test_all_that_a_job_runs_has_its_user(place: Place, wait_until: Wait, warm: str) -> None:
    place.start(SPECTRAIN_JOB_USER=UID, SPECTRAIN_WARM_START=warm)
    own = place.base / "own-python"
    own.write_text(
        f'#!/bin/sh\necho "asked as $(/usr/bin/id -u)" >>/tmp/{LEFT}\nexec {place.python} "$@"\n'
    )
    own.chmod(0o755)
    script = (
        "import os, pathlib, sys\n"
        "print('program', os.getuid(), os.getgid(), os.getgroups(), os.environ['HOME'])\n"
        "pathlib.Path.home().joinpath('mine').write_text('text')\n"
        "pathlib.Path('made').write_text('text')\n"
        f"print(pathlib.Path('/tmp/{LEFT}').read_text())\n"
        "from monitoring import step_counter; step_counter.beat(1)\n"
    )
    job = place.submit(
        script, python=str(own), setup=["echo setup $(id -u); pip --version; touch from-setup"]
    )
    ended(place, job, wait_until)
    output = place.output(job)
    assert f"program {UID} {UID} [] {place.base}/scratch/.homes/{UID}" in output
    assert f"setup {UID}" in output
    assert f"asked as {UID}" in output
    assert "asked as 0" not in output
    assert (place.storage / job.id / "work/made").read_text() == "text"
    assert place.store.get(job.id).attempts[-1].last_step == 1


def test_a_preempted_job_goes_on_with_its_files(place: Place, wait_until: Wait) -> None:
    place.start(SPECTRAIN_JOB_USER=UID)
    script = (
        "import os, pathlib, signal, sys, time\n"
        "path = pathlib.Path('state')\n"
        "if path.exists():\n"
        "    path.write_text(path.read_text() + ' and on'); print(path.read_text()); sys.exit()\n"
        "path.write_text('begun')\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "print('up', flush=True); time.sleep(600)\n"
    )
    job = place.submit(script)
    wait_until(lambda: "up" in place.output(job), what="its start")
    place.store.request(job.id, Request.PREEMPT)
    found = ended(place, job, wait_until)
    assert found.attempt == 2
    assert "begun and on" in place.output(job)


def test_a_link_to_a_file_of_somebody_else_is_not_published(place: Place, wait_until: Wait) -> None:
    secret = place.base / "secret"
    secret.write_text(f"{MARK}-of-root")
    secret.chmod(0o600)
    place.start(SPECTRAIN_JOB_USER=UID)
    # A file in one look, a link at the moment when it is opened: again and again.
    script = (
        "import os, time\n"
        f"secret = {str(secret)!r}\n"
        "until = time.monotonic() + 6\n"
        "while time.monotonic() < until:\n"
        "    for number in range(20):\n"
        "        open('new', 'w').write('x' * len(os.path.basename(secret)))\n"
        "        os.replace('new', f'file{number}')\n"
        "        os.symlink(secret, 'link'); os.replace('link', f'file{number}')\n"
        "os.symlink(os.path.dirname(secret), 'folder')\n"
    )
    ended(place, place.submit(script), wait_until)
    for path in place.storage.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert MARK.encode() not in path.read_bytes(), path


def test_nothing_of_a_job_is_left_for_the_next_with_its_user(
    place: Place, wait_until: Wait
) -> None:
    place.start(SPECTRAIN_JOB_USER=UID)
    script = (
        "import os, pathlib, subprocess, time\n"
        "pathlib.Path.home().joinpath('.profile').write_text('echo mine')\n"
        f"pathlib.Path('/tmp/{LEFT}').mkdir(); pathlib.Path('/tmp/{LEFT}/file').touch()\n"
        f"pathlib.Path('/dev/shm/{LEFT}').touch()\n"
        "for _ in range(3): subprocess.Popen(['setsid', 'sleep', '600'])\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0: time.sleep(600)\n"
        "    os._exit(0)\n"
    )
    ended(place, place.submit(script), wait_until)

    def left() -> list[Path]:
        return [path for path in (Path("/tmp") / LEFT, Path("/dev/shm") / LEFT) if path.exists()]

    wait_until(lambda: not left(), what="a tidy machine")
    home = place.base / "scratch/.homes" / UID
    wait_until(lambda: home.exists() and not list(home.iterdir()), what="an empty home")
    users = [process.info["uids"] for process in psutil.process_iter(["uids"])]
    assert JOB_USER not in {user.real for user in users if user}


def test_a_job_has_no_more_processes_than_it_may(place: Place, wait_until: Wait) -> None:
    place.start(SPECTRAIN_JOB_USER=UID, SPECTRAIN_JOB_PROCESSES="20")
    script = (
        "import subprocess\n"
        "started = []\n"
        "try:\n"
        "    while len(started) < 200: started.append(subprocess.Popen(['sleep', '600']))\n"
        "except BlockingIOError as error: print('refused after', len(started), flush=True)\n"
    )
    job = place.submit(script)
    ended(place, job, wait_until)
    count = int(place.output(job).partition("refused after ")[2].split()[0])
    assert 10 <= count <= 20


def test_a_job_cannot_stop_its_worker(place: Place, wait_until: Wait) -> None:
    worker = place.start(SPECTRAIN_JOB_USER=UID)
    script = (
        "import os, signal\n"
        f"for pid in ({worker.pid}, os.getppid()):\n"
        "    try: os.kill(pid, signal.SIGSTOP); print('stopped')\n"
        "    except PermissionError: print('refused')\n"
    )
    job = place.submit(script)
    ended(place, job, wait_until)
    assert place.output(job).count("refused") == 2


def test_workers_share_a_range_and_one_too_many_is_refused(place: Place, wait_until: Wait) -> None:
    place.start(SPECTRAIN_JOB_USER=UID)
    wait_until((place.base / "scratch/.homes" / UID).exists, what="the first worker")
    second = place.start(SPECTRAIN_JOB_USER=UID)
    assert second.wait(60) == 2
    assert "has no user left for this worker" in place.log


def test_a_worker_of_an_ordinary_user_refuses_the_setting(place: Place) -> None:
    worker = place.start(ORDINARY, SPECTRAIN_JOB_USER=UID)
    assert worker.wait(60) == 2
    assert "needs a worker that runs as root" in place.log


def test_code_packages_and_inputs_are_there_for_it_and_stay_the_services(
    place: Place, wait_until: Wait
) -> None:
    make_wheel(place.base / "wheels", "tiny")
    code = place.base / "code"
    code.mkdir()
    (code / "requirements.txt").write_text("tiny==1.0\n")
    (code / "train.py").write_text(
        "import os, pathlib, tiny\n"
        "inputs = pathlib.Path(os.environ['SPECTRAIN_INPUTS'])\n"
        "print('tiny', tiny.VERSION, (inputs / 'data' / 'one.txt').read_text())\n"
        "pathlib.Path('train.py').write_text('changed')\n"
        "for path in (inputs / 'data' / 'one.txt', pathlib.Path(tiny.__file__)):\n"
        "    try: path.write_text('changed'); print('changed')\n"
        "    except OSError: print('refused')\n"
    )
    (place.base / "data").mkdir()
    (place.base / "data/one.txt").write_text("content")
    (place.base / "data").chmod(0o700)  # as data that only the worker may read
    place.start(SPECTRAIN_JOB_USER=UID)
    storage = open_storage(place.settings.storage_url)
    job = place.submit(
        "", command=["python", "train.py"], workspace=send(storage, code),
        environment={"requirements": "requirements.txt"},
        env={"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place.base / "wheels")},
        inputs={"data": (place.base / "data").as_uri()},
    )  # fmt: skip
    ended(place, job, wait_until)
    output = place.output(job)
    assert "tiny 1.0 content" in output
    assert output.count("refused") == 2
    cache = place.base / "scratch/.cache"
    assert {path.lstat().st_uid for path in cache.rglob("*")} == {0}
    listable = [path for path in (cache, *cache.iterdir()) if path.stat().st_mode & 0o044]
    assert listable == [], "who does not know a key finds none"
