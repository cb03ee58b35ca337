"""Real workers of several users, and a job that looks for what it should not find."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from api.local.redis_server import RedisConfig, find_redis_server
from jobs.messages import Messenger
from jobs.model.record import Job
from jobs.model.spec import JobSpec
from jobs.settings import Settings, connect
from jobs.store.jobs import JobStore, open_store
from worker.environment.layer import make_layer
from worker.environment.python import Python

ROOT = Path(__file__).parents[2]


def _hold_users() -> int:
    """The first of ten user ids that this process of tests has for as long as it lives.

    They need no entry in the machine's list. No two processes share any: a user sees and ends all
    processes of its own.
    """
    for first in itertools.count(54320, 10):
        held = os.open(f"{tempfile.gettempdir()}/spectrain-test-users-{first}", os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
        else:
            return first
    raise AssertionError


_FIRST = _hold_users()
ORDINARY, FIRST_OF_JOBS, LAST_OF_JOBS, JOB_USER = range(_FIRST, _FIRST + 4)
MARK = "q7wk-zv"  # in each secret

# Prints where it finds the mark, which it does not contain itself. What it may not read, it skips.
LOOK_AROUND = """
import os, pathlib, sys
mark = bytes.fromhex(sys.argv[1])
def holds(path):
    try:
        with open(path, 'rb') as file:
            return mark in file.read(4 << 20)
    except OSError:
        return False
def is_own(process):
    try:
        return os.getpgid(int(process.name)) == os.getpgid(0)
    except OSError:
        return True
def say(word, process, path):
    try:
        print(word, path, (process / 'cmdline').read_bytes()[:80])
    except OSError:
        print(word, path, 'of a process that has ended')
def opens(memory):
    try:
        open(memory, 'rb').close()
        return True
    except OSError:
        return False
def lists(folder):
    try:
        return os.listdir(folder) != []
    except OSError:
        return False
for process in pathlib.Path('/proc').iterdir():
    if not process.name.isdigit() or is_own(process):
        continue
    for name in ('environ', 'cmdline'):
        if holds(process / name):
            say('FOUND', process, process / name)
    if opens(process / 'mem'):
        say('OPENED', process, process / 'mem')
    if lists(process / 'fd'):
        say('SAW', process, process / 'fd')
for top in sys.argv[2:]:
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and holds(path):
                print('FOUND', path)
for name, value in os.environ.items():
    if mark in value.encode():
        print('FOUND variable', name)
print('looked as', os.getuid(), os.getgid(), os.getgroups())
"""


@dataclass
class Place:
    """A service of its own, in a directory that all users may pass."""

    base: Path
    python: str
    settings: Settings
    store: JobStore
    messenger: Messenger
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def secrets(self) -> dict[str, str]:
        """The environment of a worker, with a secret of each kind."""
        return {
            "SPECTRAIN_REDIS_URL": self.settings.redis_url,
            "SPECTRAIN_API_TOKENS": f"{MARK}-token",
            "SPECTRAIN_SECRET_OF_ANOTHER_JOB": f"{MARK}-secret",
            "AWS_SECRET_ACCESS_KEY": f"{MARK}-key",
            "MY_DB_PASSWORD": f"{MARK}-password",
            "MY_OWN_VARIABLE": f"{MARK}-variable",
        }

    def start(self, uid: int | None = None, **more: str) -> subprocess.Popen[bytes]:
        """A worker process of a user."""
        env = {
            "PATH": os.environ["PATH"],
            **_library_of(self.base / "python"),
            **self.secrets,
            "SPECTRAIN_STORAGE_URL": self.settings.storage_url,
            "SPECTRAIN_SCRATCH_DIR": str(self.settings.scratch_dir),
            "SPECTRAIN_DEVICE": "cpu",
            "SPECTRAIN_LEASE_SECONDS": "3",
            "SPECTRAIN_WARM_START": "0",
            **more,
        }
        if uid is not None:
            for folder in (self.storage, self.settings.scratch_dir):
                folder.mkdir(exist_ok=True)
                os.chown(folder, uid, uid)
        with (self.base / "worker.log").open("ab") as log:
            groups = [0] if uid is None else []  # as root has it, also where the tests run without
            self.started.append(
                subprocess.Popen(
                    [self.python, "-P", "-m", "worker"], env=env, cwd=self.base, stdout=log,
                    stderr=log, user=uid, group=uid, extra_groups=groups,
                )
            )  # fmt: skip
        return self.started[-1]

    @property
    def storage(self) -> Path:
        return Path(self.settings.storage_url.removeprefix("file://"))

    @property
    def log(self) -> str:
        return (self.base / "worker.log").read_text()

    def submit(self, script: str, *words: str, **spec: Any) -> Job:
        """Submits a job that runs a Python script."""
        command = ["python", "-c", script.replace("$", "$$"), *words]
        fields = {"name": "a", "command": command, "retry": {"max_failures": 0}, **spec}
        job = self.store.submit(JobSpec.model_validate(fields))
        self.messenger.flush(self.store.now())
        return job

    def output(self, job: Job) -> str:
        log = self.storage / job.id / "logs/output.log"
        return log.read_text() if log.exists() else ""

    def stop(self) -> None:
        for process in self.started:
            process.kill()
            process.wait()


def python_for_all(folder: Path) -> str:
    """A Python with our packages that every user may run."""
    if _is_for_all(sys.executable, folder):
        return sys.executable
    # It lies in somebody's home: the same one, without its packages, where all may read it.
    base, name = Path(sys.base_prefix), f"python{sys.version_info[0]}.{sys.version_info[1]}"
    copied = folder / "base"
    for part in ("bin", "lib"):
        shutil.copytree(
            base / part, copied / part, symlinks=True, copy_function=_link_or_copy,
            ignore=shutil.ignore_patterns("site-packages", "test", "__pycache__", "config-*"),
        )  # fmt: skip
    own = Python.of_this_process()
    beneath = replace(own, executable=copied / "bin" / name, base=copied / "bin" / name)
    python = str(make_layer(folder / "layer", beneath).executable)
    if not _is_for_all(python, folder):
        pytest.skip(f"other users cannot read {ROOT}, or the packages in {sys.prefix}")
    return python


def _library_of(folder: Path) -> dict[str, str]:
    """Where a copied Python finds its own library."""
    return {"LD_LIBRARY_PATH": str(folder / "base/lib")}


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


def _is_for_all(python: str, folder: Path) -> bool:
    command = [python, "-P", "-c", "import celery, worker"]
    try:
        found = subprocess.run(
            command, user=ORDINARY, group=ORDINARY, extra_groups=[], cwd="/", check=False,
            env=_library_of(folder), stderr=subprocess.DEVNULL,
        )  # fmt: skip
    except OSError:
        return False
    return found.returncode == 0


def places(wait_until: Callable[..., Any]) -> Iterator[Place]:
    """A place, for a fixture; needs root, which other users' processes are started by."""
    if os.geteuid() != 0:
        pytest.skip("starting processes of other users needs root")
    base = Path(tempfile.mkdtemp(prefix="spectrain-isolation-", dir="/tmp"))
    base.chmod(0o755)
    config = RedisConfig(base / "redis")
    config.path.write_text(config.path.read_text().replace(config._password, f"{MARK}-redis"))
    config._password = f"{MARK}-redis"
    config.path.parent.chmod(0o700)
    redis = subprocess.Popen(
        [find_redis_server(), str(config.path)], stdout=subprocess.DEVNULL, env=_bare()
    )
    place: Place | None = None
    try:
        wait_until(config.answers, what="Redis")
        settings = Settings(
            redis_url=config.url, storage_url=(base / "experiments").as_uri(),
            scratch_dir=base / "scratch", device="cpu", lease_seconds=3,
        )  # fmt: skip
        client = connect(settings)
        store = open_store(client, settings)
        place = Place(base, python_for_all(base / "python"), settings, store,
                      Messenger(settings, store))  # fmt: skip
        yield place
    finally:
        if place is not None:
            place.stop()
            place.messenger.close()
            place.store.redis.close()
        redis.kill()
        redis.wait()
        shutil.rmtree(base, ignore_errors=True)


def _bare() -> Mapping[str, str]:
    return {"PATH": os.environ["PATH"]}
