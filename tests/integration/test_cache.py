"""The worker's cache, used by processes that end at any time, and on a disk that is full."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.integration.one_worker import DiskOf
from worker.cache.cache import Building, Cache, CacheFullError, Held, Unwanted
from worker.cache.entries import Entry, entries

WaitUntil = Callable[..., Any]
KEYS = [f"{number:016x}" for number in range(8)]
MB = 1_000_000

# A process that uses one entry: root, key, a file that counts builds, seconds of a build.
USER = """
import sys, time
from pathlib import Path
from worker.cache.cache import Cache
root, key, builds, seconds = sys.argv[1:]
def build(building):
    with open(builds, "a") as file:
        file.write("built\\n")
    (building.path / "half").write_text("half")
    print("building", flush=True)
    time.sleep(float(seconds))
    (building.path / "half").rename(building.path / "whole")
held = Cache(Path(root), 10**9).use("code", key, build, durable=False)
print("has", sorted(path.name for path in held.path.iterdir()), held.built, flush=True)
sys.stdin.read()
"""


class User:
    """A process that holds an entry until it is ended."""

    def __init__(self, root: Path, key: str, builds: Path, seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(root), key, str(builds), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.communicate(timeout=30)


def writer(size: int) -> Callable[[Building], None]:
    """A builder of one file of this size, in bytes."""

    def build(building: Building) -> None:
        (building.path / "data").write_bytes(b"x" * size)

    return build


def use(cache: Cache, key: str, size: int = MB, *, durable: bool = False) -> Held:
    held = cache.use("code", key, writer(size), durable=durable)
    assert held is not None
    return held


def test_two_builders_at_once_build_once(tmp_path: Path) -> None:
    builds = tmp_path / "builds"
    users = [User(tmp_path / "cache", KEYS[0], builds, 1) for _ in range(2)]
    lines = [user.line() for user in users]
    lines += [user.line() for user, line in zip(users, lines, strict=True) if line == "building"]
    for user in users:
        user.end()
    assert sorted(lines) == ["building", "has ['whole'] False", "has ['whole'] True"]
    assert builds.read_text() == "built\n"


def test_a_killed_builder_leaves_nothing_that_counts(tmp_path: Path) -> None:
    builds = tmp_path / "builds"
    killed = User(tmp_path / "cache", KEYS[0], builds, 600)
    assert killed.line() == "building"
    waiting = User(tmp_path / "cache", KEYS[0], builds, 0)
    killed.process.kill()
    killed.process.communicate()
    assert waiting.line() == "building"
    assert waiting.line() == "has ['whole'] True"
    waiting.end()


def test_what_a_killed_builder_left_is_removed(tmp_path: Path) -> None:
    killed = User(tmp_path, KEYS[0], tmp_path / "builds", 600)
    assert killed.line() == "building"
    Cache(tmp_path, 10**9).trim()
    assert Entry(tmp_path, "code", KEYS[0]).path.exists()  # it is still being built
    killed.process.kill()
    killed.process.communicate()
    Cache(tmp_path, 10**9).trim()
    assert entries(tmp_path) == []


def test_a_process_that_outlives_its_builder_keeps_the_entry_to_itself(tmp_path: Path) -> None:
    """An installer may write on after its worker was killed."""
    script = (
        "import subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from worker.cache.cache import Cache\n"
        "def build(building):\n"
        "    left = subprocess.Popen(['sleep', '600'], pass_fds=[building.lock])\n"
        "    print(left.pid, flush=True)\n"
        "    time.sleep(600)\n"
        f"Cache(Path(sys.argv[1]), 10**9).use('code', '{KEYS[0]}', build, durable=False)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as builder:
        assert builder.stdout is not None
        installer = int(builder.stdout.readline())
        builder.kill()
    asked: list[bool] = []
    try:
        assert Cache(tmp_path, 10**9).use(
            "code", KEYS[0], writer(1), durable=False,
            wanted=lambda: asked.append(True) or len(asked) < 5,  # type: ignore[func-returns-value]
        ) is None  # fmt: skip
    finally:
        os.kill(installer, signal.SIGKILL)
    use(Cache(tmp_path, 10**9), KEYS[0]).close()


def test_whoever_waits_for_a_build_can_stop_waiting(tmp_path: Path) -> None:
    builder = User(tmp_path, KEYS[0], tmp_path / "builds", 600)
    assert builder.line() == "building"
    waits: list[str] = []
    held = Cache(tmp_path, 10**9).use(
        "code", KEYS[0], writer(1), durable=False,
        wanted=lambda: not waits, on_wait=lambda: waits.append("waits"),
    )  # fmt: skip
    assert held is None
    assert waits == ["waits"]
    builder.process.kill()
    builder.process.communicate()


def test_a_builder_that_is_no_longer_wanted_leaves_nothing(tmp_path: Path) -> None:
    def stop(building: Building) -> None:
        (building.path / "half").write_text("half")
        raise Unwanted

    cache = Cache(tmp_path, 10**9)
    assert cache.use("code", KEYS[0], stop, durable=False) is None
    assert not Entry(tmp_path, "code", KEYS[0]).path.exists()


def test_the_error_of_a_builder_is_the_callers_and_the_next_one_builds(tmp_path: Path) -> None:
    def fail(building: Building) -> None:
        raise LookupError(building.path.name)

    cache = Cache(tmp_path, 10**9)
    with pytest.raises(LookupError):
        cache.use("code", KEYS[0], fail, durable=False)
    assert use(cache, KEYS[0]).built


def test_the_least_recently_used_goes_and_what_is_held_stays(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 3 * MB + MB // 2)
    held = use(cache, KEYS[0])
    for key in KEYS[1:3]:
        use(cache, key).close()
        time.sleep(0.02)
    use(cache, KEYS[1]).close()  # used again
    use(cache, KEYS[3]).close()
    assert [entry.key for entry in entries(tmp_path)] == [KEYS[0], KEYS[1], KEYS[3]]
    assert (held.path / "data").stat().st_size == MB
    held.close()


def test_an_entry_that_another_process_holds_is_never_evicted(tmp_path: Path) -> None:
    holder = User(tmp_path, KEYS[0], tmp_path / "builds", 0)
    assert (holder.line(), holder.line()) == ("building", "has ['whole'] True")
    cache = Cache(tmp_path, 0)
    cache.trim()
    assert (Entry(tmp_path, "code", KEYS[0]).path / "whole").exists()
    holder.process.kill()
    holder.process.communicate()
    cache.trim()
    assert entries(tmp_path) == []


def test_an_entry_larger_than_the_limit_stays_while_it_is_used(tmp_path: Path) -> None:
    cache = Cache(tmp_path, MB)
    held = use(cache, KEYS[0], 2 * MB)
    assert held.path.is_dir()
    held.close()
    use(cache, KEYS[1], 1).close()
    assert [entry.key for entry in entries(tmp_path)] == [KEYS[1]]


def test_what_was_not_synced_does_not_outlive_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Cache(tmp_path, 10**9)
    use(cache, KEYS[0], durable=False).close()
    use(cache, KEYS[1], durable=True).close()
    monkeypatch.setattr("worker.cache.entries.boot_id", lambda: "another")
    assert not use(cache, KEYS[1], durable=True).built
    assert use(cache, KEYS[0], durable=False).built


def test_a_record_that_is_torn_does_not_count(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 10**9)
    use(cache, KEYS[0]).close()
    (tmp_path / "code" / f"{KEYS[0]}.json").write_text('{"bytes": 1')
    assert use(cache, KEYS[0]).built


def test_folders_that_nobody_may_write_to_are_removed_too() -> None:
    script = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from machine.trees import remove_tree\n"
        "if os.getuid() == 0:\n"
        "    os.setuid(65534)\n"  # root may write anywhere
        "root = Path(sys.argv[1]) / 'entry'\n"
        "(root / 'below').mkdir(parents=True)\n"
        "(root / 'below' / 'data').write_text('data')\n"
        "(root / 'below').chmod(0o555)\n"
        "root.chmod(0o555)\n"
        "remove_tree(root)\n"
    )
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        subprocess.run([sys.executable, "-c", script, directory], check=True)
        assert not list(Path(directory).iterdir())


@pytest.mark.parametrize(("kind", "key"), [("..", KEYS[0]), ("code", "../x"), ("code", "")])
def test_a_name_that_leaves_the_cache_is_refused(tmp_path: Path, kind: str, key: str) -> None:
    with pytest.raises(ValueError, match="no entry of a cache"):
        Cache(tmp_path, 1).use(kind, key, writer(1), durable=False)


@pytest.fixture
def small_disk(disk_of: DiskOf) -> Path:
    return disk_of("4m")


def test_a_full_disk_evicts_and_builds_again(small_disk: Path) -> None:
    cache = Cache(small_disk, 10**9)
    for key in KEYS[:3]:
        use(cache, key).close()
        time.sleep(0.02)
    held = use(cache, KEYS[3], 2 * MB)
    assert held.built
    left = {entry.key for entry in entries(small_disk)}
    assert KEYS[0] not in left
    assert KEYS[3] in left
    held.close()


def test_a_disk_full_of_what_is_in_use_is_told_and_harms_nothing(small_disk: Path) -> None:
    cache = Cache(small_disk, 10**9)
    with use(cache, KEYS[0], 3 * MB) as held:
        with pytest.raises(CacheFullError, match=r"is full.*3\.0 MB.*SPECTRAIN_CACHE_DIR"):
            use(cache, KEYS[1], 3 * MB)
        assert (held.path / "data").stat().st_size == 3 * MB
        assert [entry.key for entry in entries(small_disk) if entry.size()] == [KEYS[0]]
    use(cache, KEYS[1], 3 * MB).close()


def test_a_disk_that_fails_is_no_full_disk(tmp_path: Path) -> None:
    def fail(_: Building) -> None:
        raise OSError(errno.EIO, "input/output error")

    with pytest.raises(OSError, match="input/output error"):
        Cache(tmp_path, 1).use("code", KEYS[0], fail, durable=False)
