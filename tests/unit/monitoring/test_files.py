"""Files that are there whole or not at all."""

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from monitoring import files


def test_two_drafts_of_one_file_have_two_names(tmp_path: Path) -> None:
    drafts = {files.temporary(tmp_path / "file") for _ in range(100)}
    assert len(drafts) == 100
    assert not any(files.is_left(draft) for draft in drafts)


def test_another_pid_namespace_is_another_host(tmp_path: Path) -> None:
    script = (
        "from monitoring.files import temporary; print(temporary(__import__('pathlib').Path('x')))"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"no new namespaces here: {done.stderr.strip()}")
    theirs, ours = done.stdout.split(".")[2].split("-"), files.temporary(tmp_path).name.split("-")
    assert theirs[1] == "1"
    assert not ours[0].endswith(theirs[0])


def test_a_link_that_cannot_take_its_place_leaves_no_draft(tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.mkdir()  # in the way
    with pytest.raises(OSError, match=r".") as caught:
        files.link_atomically(link, "target")
    assert caught.value.errno == errno.EISDIR
    assert list(tmp_path.iterdir()) == [link]
