"""Files are read only if they belong to the user of a job, whatever lies at their path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine.ownership import opened

MINE, ANOTHERS = os.geteuid(), os.geteuid() + 1


def test_a_file_of_the_owner_is_read_and_no_other(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    with opened(file, MINE) as path:
        assert path.read_text() == "text"
    with pytest.raises(PermissionError), opened(file, ANOTHERS):
        pass
    with opened(file, None) as path:
        assert path == file


def test_what_is_opened_stays_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("text")
    with opened(file, MINE) as path:
        (tmp_path / "other").write_text("other")
        (tmp_path / "other").replace(file)
        assert path.read_text() == "text"


def test_a_link_or_a_pipe_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        with pytest.raises(OSError), opened(tmp_path / name, MINE):  # noqa: PT011
            pass
