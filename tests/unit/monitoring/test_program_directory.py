"""The commit of a run is that of its program, whatever repository stands around it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

from monitoring.ids import UNKNOWN, get_git_hash, program_directory
from monitoring.runs.config import ConfigTracker

Repository = Callable[[str], tuple[Path, str]]


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """Makes repositories with one commit: their directory and the commit's hash."""

    def make(name: str) -> tuple[Path, str]:
        def git(*command: str) -> str:
            run = ["git", "-c", "user.name=n", "-c", "user.email=e@x", *command]
            return subprocess.check_output(run, cwd=directory, text=True)

        directory = tmp_path / name
        directory.mkdir(parents=True)
        (directory / "train.py").write_text(name)
        git("init", "-q")
        git("add", "train.py")
        git("commit", "-q", "-m", name)
        return directory, git("rev-parse", "--short=8", "HEAD").strip()

    return make


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], None]:
    """Makes a script the one that runs, or none."""

    def set_main(script: Path | None) -> None:
        monkeypatch.setattr(
            sys.modules["__main__"], "__file__", script and str(script), raising=False
        )

    return set_main


Main = Callable[[Path | None], None]


def test_it_is_that_of_the_script_and_not_of_the_working_directory(
    repository: Repository, main: Main, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ours, _ = repository("ours")
    (ours / "run/work").mkdir(parents=True)
    theirs, commit = repository("theirs")
    monkeypatch.chdir(ours / "run/work")
    main(theirs / "train.py")
    assert get_git_hash() == commit
    tracker = ConfigTracker(tmp_path / "a-run")
    tracker.save_config({})
    config = tracker.load_config()
    assert config is not None
    assert config["git_hash"] == commit
    assert config["git_commit"].startswith(commit)
    assert config["git_dirty"] is False
    (tmp_path / "link.py").symlink_to(theirs / "train.py")
    main(tmp_path / "link.py")
    assert get_git_hash() == commit


@pytest.mark.parametrize("place", ["run", "run/work", "run/work/code"])
def test_in_an_attempt_the_repository_around_the_run_is_not_the_programs(
    repository: Repository, main: Main, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ours, _ = repository("ours")
    directory = ours / "scratch" / place
    directory.mkdir(parents=True)
    monkeypatch.setenv("SPECTRAIN_RUN_DIR", str(ours / "scratch/run"))
    monkeypatch.chdir(directory)
    main(None)
    assert get_git_hash() == UNKNOWN
    (directory / "train.py").touch()
    main(directory / "train.py")
    assert get_git_hash() == UNKNOWN


def test_a_repository_in_the_working_directory_of_an_attempt_is_the_programs(
    repository: Repository, main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = repository("ours")
    cloned, commit = repository("ours/scratch/run/work/code")
    monkeypatch.setenv("SPECTRAIN_RUN_DIR", str(ours / "scratch/run"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", "/somewhere")
    main(cloned / "train.py")
    assert get_git_hash() == commit


@pytest.mark.parametrize(("place", "name"), [("scripts", "pytest"), ("purelib", "pytest/main.py")])
def test_what_is_installed_belongs_to_no_repository_around_its_environment(
    repository: Repository, main: Main, monkeypatch: pytest.MonkeyPatch, place: str,
    name: str,
) -> None:  # fmt: skip
    theirs, commit = repository("theirs")
    monkeypatch.chdir(theirs)
    main(Path(sysconfig.get_path(place)) / name)
    assert program_directory() == theirs
    assert get_git_hash() == commit
