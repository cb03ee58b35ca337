"""Files that are there whole or not at all."""

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from monitoring import CheckpointManager, files


def test_every_file_of_a_save_is_on_the_disk_before_its_name_and_every_name_before_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut would tell, had we one: the order of what reaches the disk."""
    manager = CheckpointManager(tmp_path)
    checkpoints, model = manager.checkpoint_dir, nn.Linear(4, 4)
    order: list[tuple[str, str]] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        fsync(descriptor)
        order.append(("synced", shown(Path(f"/proc/self/fd/{descriptor}").readlink())))

    def renamed(self: Path, target: Path) -> Path:
        order.append((shown(self), shown(target)))
        return replace(self, target)

    def shown(path: Path) -> str:
        return (
            "the directory"
            if path == checkpoints
            else re.sub(r"\.[0-9a-f]{8}-.*", ".tmp", path.name)
        )

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    manager.save_checkpoint(1, model, torch.optim.SGD(model.parameters()), [], {})
    name = "checkpoint_step_1.pt"
    assert order == [
        ("synced", f".{name}.tmp"),
        ("synced", f".{name}.json.next.tmp"),
        (f".{name}.json.next.tmp", f"{name}.json.next"),
        ("synced", "the directory"),
        (f".{name}.tmp", name),
        ("synced", "the directory"),
        (f"{name}.json.next", f"{name}.json"),
        ("synced", "the directory"),
        (".checkpoint_latest.pt.tmp", "checkpoint_latest.pt"),
    ]


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
