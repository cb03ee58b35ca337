"""Settings that cannot be used end every process with a sentence and exit code 2."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.integration.warm_python import WarmPython

ROOT = Path(__file__).parents[2]


def entry_points() -> list[str]:
    """The modules of ours that are started by `python -m`; the command line is started apart."""
    paths = [path for room in ("api", "jobs", "worker") for path in (ROOT / room).rglob("*.py")]
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for path in paths
        if re.search(r'^if __name__ == "__main__":', path.read_text(), re.M)
    }
    # Processes of a worker and a hook of the chart, which read no settings.
    without = {"worker.launch.guard", "worker.launch.fork_server", "api.ops.make_secrets"}
    return sorted(names - without)


def usable() -> dict[str, str]:
    """The environment without settings."""
    return {k: v for k, v in os.environ.items() if not re.match(r"SPECTRAIN_|REDIS_URL$", k)}


def run(tmp_path: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", *words], env=usable() | settings,
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip


WRONG = {"SPECTRAIN_LEASE_SECONDS": "abc", "SPECTRAIN_STORAGE_URL": "ftp://u:pw@h/x"}


def is_refused(ended: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    assert ended.stderr.splitlines() == [
        "SPECTRAIN_STORAGE_URL is 'ftp://***@h/x'; allowed: file:///directory or "
        "s3://bucket/prefix.",
        "SPECTRAIN_LEASE_SECONDS is 'abc'; allowed: a number greater than 0, at most 86400.",
    ]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", [*entry_points(), "api.cli api"])
def test_a_wrong_setting_ends_every_process_with_its_name_and_exit_code_2(
    name: str, tmp_path: Path
) -> None:
    is_refused(run(tmp_path, *name.split(), **WRONG), tmp_path)


@pytest.mark.parametrize("command", ["worker", "reaper", "up", "gc", "reindex", "doctor"])
def test_a_wrong_setting_ends_every_command(
    command: str, tmp_path: Path, warm_python: WarmPython
) -> None:
    ended = warm_python.run("api.cli", command, env=usable() | WRONG, cwd=tmp_path)
    is_refused(ended, tmp_path)


def test_a_worker_without_the_gpu_that_it_is_set_to_says_so(
    settings: Settings, tmp_path: Path
) -> None:
    ended = run(
        tmp_path, "worker", SPECTRAIN_REDIS_URL=settings.redis_url, SPECTRAIN_DEVICE="cuda",
        SPECTRAIN_STORAGE_URL=settings.storage_url, CUDA_VISIBLE_DEVICES="",
    )  # fmt: skip
    assert ended.stderr == "SPECTRAIN_DEVICE is cuda, but there is no GPU on this machine\n"
    assert ended.returncode == 2


@pytest.mark.parametrize("name", ["worker", "api.server.serve", "api.ops.reaper"])
def test_an_object_store_without_its_library_says_what_to_install(
    name: str, settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "boto3.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'boto3'\", name='boto3')"
    )
    ended = run(
        tmp_path, name, SPECTRAIN_REDIS_URL=settings.redis_url, SPECTRAIN_STORAGE_URL="s3://b",
        SPECTRAIN_DEVICE="cpu", PYTHONPATH=str(tmp_path / "lib"),
    )  # fmt: skip
    assert "needs boto3, which is not installed: pip install 'spectrain[s3]'" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.returncode == 2


NO_PROFILE = {
    "SPECTRAIN_STORAGE_URL": "s3://runs", "SPECTRAIN_DEVICE": "cpu", "AWS_PROFILE": "none",
    "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}  # fmt: skip


@pytest.mark.parametrize(
    "words",
    ["worker", "api.server.serve", "api.ops.reaper", "api.cli gc", "api.cli reindex",
     "api.cli doctor"],
)  # fmt: skip
def test_a_wrong_configuration_of_aws_ends_all_that_opens_storage(
    words: str, settings: Settings, tmp_path: Path, warm_python: WarmPython
) -> None:
    env = usable() | NO_PROFILE | {"SPECTRAIN_REDIS_URL": settings.redis_url}
    ended = warm_python.run(*words.split(), env=env, cwd=tmp_path)
    *_, last = ended.stderr.splitlines()
    assert last == (
        "cannot open the object store: The config profile (none) could not be found "
        "(check AWS_PROFILE)"
    )
    assert "Traceback" not in ended.stderr
    assert (ended.returncode, ended.stdout) == (2, "")
