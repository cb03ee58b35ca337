"""A job with a user of its own: all of it runs so, and nothing of it reaches others, or is left."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


def owners_of_processes() -> set[int]:
    found = set()
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit():
                found.add(path.stat().st_uid)
    return found


@pytest.mark.parametrize("warm", ["0", "1"])
def test_all_that_a_job_runs_has_its_user(place: Place, wait_until: Wait, warm: str) -> None:
    place.start(SPECTRAIN_JOB_USER=UID, SPECTRAIN_WARM_START=warm)
    own = place.base / "own-python"
    own.write_text(
        f"#!/bin/sh\necho asked as $(/usr/bin/id -u) >>/tmp/{LEFT}\n"
        f'/usr/bin/grep NoNewPrivs /proc/self/status >>/tmp/{LEFT}\nexec {place.python} "$@"\n'
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
    assert "NoNewPrivs:\t1" in output
    assert "NoNewPrivs:\t0" not in output
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


@pytest.mark.parametrize("warm", ["0", "1"])
def test_a_program_keeps_no_right_of_its_worker(place: Place, wait_until: Wait, warm: str) -> None:
    place.start(
        SPECTRAIN_JOB_USER=UID, SPECTRAIN_JOB_PROCESSES="123", SPECTRAIN_WARM_START=warm,
        SPECTRAIN_UMASK="027",
    )  # fmt: skip
    script = (
        "import json, os, pathlib, resource\n"
        "status = dict(line.split(':', 1) for line in open('/proc/self/status'))\n"
        "names = ('Uid', 'Gid', 'Groups', 'NoNewPrivs', 'CapInh', 'CapPrm', 'CapEff', 'CapAmb')\n"
        "found = {name: status[name].split() for name in names}\n"
        "found['most'] = resource.getrlimit(resource.RLIMIT_NPROC)\n"
        "found['umask'] = os.umask(0)\n"
        "for uid in (0, 1):\n"
        "    try: os.setresuid(uid, uid, uid); found['became'] = uid\n"
        "    except PermissionError: pass\n"
        "made = pathlib.Path.home() / 'made'; made.touch(); found['home'] = str(made.parent)\n"
        "above = [pathlib.Path(os.environ['SPECTRAIN_RUN_DIR']).parent, made.parent.parent]\n"
        "found['listed'] = [str(one) for one in above if os.access(one, os.R_OK | os.W_OK)]\n"
        "run = pathlib.Path(os.environ['SPECTRAIN_RUN_DIR'])\n"
        "foreign = [str(p) for p in (run, *run.rglob('*')) if p.lstat().st_uid != os.getuid()]\n"
        "print('found', json.dumps({**found, 'foreign': foreign}))\n"
    )
    (place.base / "rights.py").write_text(script)
    (place.base / "rights.py").chmod(0o644)
    job = place.submit("", command=["python", str(place.base / "rights.py")])
    ended(place, job, wait_until)
    found = json.loads(place.output(job).partition("found ")[2].splitlines()[0])
    assert found.pop("Uid") == found.pop("Gid") == [UID] * 4, "real, effective, saved, of files"
    assert found.pop("Groups") == []
    assert {name: value for name, value in found.items() if name.startswith("Cap")} == {
        name: ["0" * 16] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")
    }
    assert found["NoNewPrivs"] == ["1"]
    assert found["most"] == [123, 123]
    assert "became" not in found
    umask = os.umask(0o77)
    os.umask(umask)
    assert found["umask"] == umask, "that of whoever started the worker"
    assert found["home"] == f"{place.base}/scratch/.homes/{UID}"
    assert found["listed"] == found["foreign"] == []


def test_a_forked_process_has_no_way_back_to_the_rights_of_its_worker() -> None:
    # Unlike a program that is started anew, it would keep the ids that the kernel has saved.
    script = (
        "from worker.launch.rights import Rights\n"
        f"Rights({UID}, groups=(7,)).take(); print(open('/proc/self/status').read())\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        extra_groups=[0, 4],
    ).stdout  # fmt: skip
    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert status["Uid"].split() == status["Gid"].split() == [UID] * 4
    assert status["Groups"].split() == ["7"]
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0


def test_a_link_in_place_of_a_directory_gives_the_job_nothing(
    place: Place, wait_until: Wait
) -> None:
    secrets = place.base / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / f"{MARK}.jsonl").write_text(f'{{"step": 1, "of": "{MARK}"}}\n')
    place.start(SPECTRAIN_JOB_USER=UID)
    script = (
        "import os, pathlib, shutil, sys, time\n"
        "run = pathlib.Path(os.environ['SPECTRAIN_RUN_DIR'])\n"
        "for name in ('output', 'logs', 'checkpoints'):\n"
        "    shutil.rmtree(run / name, ignore_errors=True)\n"
        f"    (run / name).symlink_to({str(secrets)!r})\n"
        "time.sleep(2.5); sys.exit(os.environ['SPECTRAIN_ATTEMPT'] == '1')\n"
    )
    job = place.submit(script, retry={"max_failures": 1, "backoff_seconds": 0})
    ended(place, job, wait_until)
    assert len(place.store.get(job.id).attempts) == 2
    for path in (secrets, *secrets.iterdir()):
        assert path.stat().st_uid == 0
    assert MARK not in place.output(job), "not even the names"


def test_an_input_is_read_with_the_rights_of_the_jobs_user(place: Place, wait_until: Wait) -> None:
    for name, mode in (("closed", 0o700), ("open", 0o755)):
        (place.base / name).mkdir()
        (place.base / name / "file").write_text(f"{MARK} {name}")
        (place.base / name).chmod(mode)
    (place.base / "open/secret").write_text(f"{MARK} secret")
    (place.base / "open/secret").chmod(0o640)
    place.start(SPECTRAIN_JOB_USER=UID)
    script = "import os; print(open(os.environ['SPECTRAIN_INPUTS'] + '/data').read())"
    for name in ("closed", "closed/file", "open", "open/secret", "open/file"):
        job = place.submit(script, inputs={"data": (place.base / name).as_uri()})
        wait_until(lambda one=job: place.store.get(one.id).state.is_final, what="its end")
        found = place.store.get(job.id)
        if name == "open/file":
            assert f"{MARK} open" in place.output(job)
        else:
            assert f"the user of the job ({UID}) may not read" in found.message
            assert MARK not in place.output(job)


def test_what_the_interpreter_of_a_job_starts_ends_with_the_attempt(
    place: Place, wait_until: Wait
) -> None:
    # It is asked for its version before the program has a guard.
    own = place.base / "own-python"
    leaves = f"{shutil.which('setsid')} {shutil.which('sleep')} 600 >/dev/null 2>&1 &"
    own.write_text(f'#!/bin/sh\n{leaves}\nexec {place.python} "$@"\n')
    own.chmod(0o755)
    place.start(SPECTRAIN_JOB_USER=UID)
    ended(place, place.submit("print('done')", python=str(own)), wait_until)
    wait_until(lambda: JOB_USER not in owners_of_processes(), what="no process of its user")


def test_nothing_of_a_job_is_left_for_the_next_with_its_user(
    place: Place, wait_until: Wait
) -> None:
    place.start(SPECTRAIN_JOB_USER=UID)
    script = (
        "import os, pathlib, subprocess, time\n"
        "pathlib.Path.home().joinpath('.profile').write_text('echo mine')\n"
        f"pathlib.Path('/tmp/{LEFT}').mkdir(); pathlib.Path('/tmp/{LEFT}/file').touch()\n"
        f"pathlib.Path('/dev/shm/{LEFT}').touch()\n"
        "import ctypes; libc = ctypes.CDLL(None)\n"
        "assert libc.shmget(0x5bec, 4096, 0o1600) != -1\n"
        "assert libc.msgget(0x5bec, 0o1600) != -1 and libc.semget(0x5bec, 1, 0o1600) != -1\n"
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
    assert JOB_USER not in owners_of_processes()
    memory = "".join((Path("/proc/sysvipc") / kind).read_text() for kind in ("shm", "msg", "sem"))
    assert UID not in memory


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


def test_a_worker_says_that_it_cannot_limit_processes(place: Place, wait_until: Wait) -> None:
    place.start(ORDINARY, SPECTRAIN_JOB_PROCESSES="20")
    wait_until(lambda: "SPECTRAIN_JOB_PROCESSES has no effect here" in place.log, what="a warning")


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
    (place.base / "data").chmod(0o755)
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
