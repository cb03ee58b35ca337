"""Real workers of several users, and a job that looks for what it should not find."""

from __future__ import annotations

import os
import re
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
# Users that need no entry in the machine's list; each process of the tests has others, since a user
# sees all processes of its own.
_FIRST = 54320 + 10 * int(re.sub(r"\D", "", os.environ.get("PYTEST_XDIST_WORKER", "")) or 0)
ORDINARY, FIRST_OF_JOBS, LAST_OF_JOBS = _FIRST + 1, _FIRST + 2, _FIRST + 3
MARK = "q7wk-zv"  # in each secret

# Prints where it finds the mark, which it does not contain itself. What it may not read, it skips.
LOOK_AROUND = """
import os, pathlib, stat, sys
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
for process in pathlib.Path('/proc').iterdir():
    if not process.name.isdigit() or is_own(process):
        continue
    for name in ('environ', 'cmdline'):
        if holds(process / name):
            print('FOUND', process / name, (process / 'cmdline').read_bytes()[:80])
    if os.stat(process).st_uid == os.getuid() or os.access(process / 'mem', os.R_OK):
        try:
            open(process / 'mem', 'rb').close()
            print('OPENED', process / 'mem', (process / 'cmdline').read_bytes()[:80])
        except OSError:
            pass
    try:
        for descriptor in (process / 'fd').iterdir():
            print('SAW', descriptor, (process / 'cmdline').read_bytes()[:80])
            break
    except OSError:
        pass
for top in sys.argv[2:]:
    for folder, _, files in os.walk(top):
        for name in files:
            path = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(path).st_mode) and holds(path):
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
            # Of a copied Python.
            "LD_LIBRARY_PATH": str(self.base / "python/base/lib"),
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
    if _runs(sys.executable):
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
    return str(make_layer(folder / "layer", beneath).executable)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target)


def _runs(python: str) -> bool:
    command = [python, "-I", "-c", ""]
    try:
        found = subprocess.run(
            command, user=ORDINARY, group=ORDINARY, extra_groups=[], cwd="/", check=False
        )
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
