"""Only files of the job's user are sent to storage, whatever a program puts in their place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from machine.ownership import give, opened
from monitoring.storage.base import Fence
from monitoring.storage.directory import FileStorage
from worker.files.look import Seen
from worker.files.mirror.contents import Contents
from worker.files.pace import Pace

RUN, SECRET = "run", b"q7wk-zv of somebody else\n"
US = os.geteuid()
Send = Callable[[Contents, str, Seen], object]
SENDS: dict[str, Send] = {
    "alone": lambda contents, path, seen: contents.store(path, seen),
    "with others": lambda contents, path, seen: contents.store_all({path: seen}),
}


def link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def second_name(path: Path, secret: Path) -> None:
    os.link(secret, path)


def in_linked_folder(path: Path, secret: Path) -> None:
    """What lay in a folder of the run lies in another one, to which the folder is now a link."""
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.symlink_to(secret.parent)


@pytest.mark.parametrize("name", ["file", "log.jsonl"])
@pytest.mark.parametrize("how", SENDS)
@pytest.mark.parametrize("replace", [link, second_name, in_linked_folder])
def test_a_file_that_became_somebody_elses_before_it_is_opened_is_not_sent(
    tmp_path: Path, replace: Callable[[Path, Path], None], how: str, name: str
) -> None:
    secret = tmp_path / "secrets" / name
    secret.parent.mkdir()
    secret.write_bytes(SECRET)
    file = tmp_path / "scratch/folder" / name
    file.parent.mkdir(parents=True)
    file.write_bytes(b"x" * len(SECRET))
    storage = FileStorage(tmp_path / "storage")
    # The job's user is not the one that the secret belongs to.
    contents = Contents(storage, file.parents[1], Fence(RUN, 1),
                        Pace(appends_in_place=True), owner=US + 1)  # fmt: skip
    seen = Seen.of(file)
    assert seen is not None
    file.unlink()
    replace(file, secret)
    with contextlib.suppress(OSError):
        SENDS[how](contents, f"folder/{name}", seen)
    for path in (tmp_path / "storage").rglob("*"):
        assert not path.is_file() or SECRET not in path.read_bytes()


@pytest.mark.parametrize("how", SENDS)
def test_a_file_of_the_jobs_user_is_sent(tmp_path: Path, how: str) -> None:
    (tmp_path / "file").write_bytes(b"content")
    storage = FileStorage(tmp_path / "storage")
    contents = Contents(storage, tmp_path, Fence(RUN, 1), Pace(appends_in_place=True), owner=US)
    seen = Seen.of(tmp_path / "file")
    assert seen is not None
    SENDS[how](contents, "file", seen)
    assert storage.read(f"{RUN}/file") == b"content"


@pytest.mark.parametrize("owner", [None, US])
def test_a_pipe_is_not_opened(tmp_path: Path, owner: int | None) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PermissionError), opened(tmp_path / "pipe", owner):
        pass


@pytest.mark.skipif(US != 0, reason="only root gives files away")
def test_what_a_link_leads_to_is_not_given_away(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets/file").touch()
    (tmp_path / "output").symlink_to(tmp_path / "secrets")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/link").symlink_to(tmp_path / "secrets/file")
    for name in ("output", "folder"):
        give(tmp_path / name, 54399)
        assert (tmp_path / name).lstat().st_uid == 54399
    assert (tmp_path / "secrets").stat().st_uid == (tmp_path / "secrets/file").stat().st_uid == US
