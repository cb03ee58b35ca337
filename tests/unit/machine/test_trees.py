"""Directories that are hard to remove."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine.trees import make_folder, remove_tree


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that must stay, to which links lead."""
    file = tmp_path / "outside/file"
    file.parent.mkdir()
    file.touch()
    return file


def test_folders_without_end_are_removed(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    here = os.open(".", os.O_RDONLY)
    try:
        os.chdir(root)
        for _ in range(3000):  # beyond recursion, open files, and the length of a path
            Path("link").symlink_to(outside.parent)
            Path("folder").mkdir()
            os.chdir("folder")
    finally:
        os.fchdir(here)
        os.close(here)
    remove_tree(root)
    assert not root.exists()
    assert outside.exists()


def test_locked_folders_are_removed(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    for folder in ("locked/within", "read/only"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").touch()
        (root / folder / "link").symlink_to(outside.parent)
    (root / "locked").chmod(0o000)
    (root / "read/only").chmod(0o500)
    (root / "read").chmod(0o500)
    root.chmod(0o500)
    remove_tree(root)
    assert not root.exists()
    assert outside.exists()


@pytest.mark.parametrize("kind", ["nothing", "file", "pipe", "link", "dangling"])
def test_what_is_in_the_place_of_a_directory_is_removed(
    tmp_path: Path, outside: Path, kind: str
) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.touch()
    elif kind == "pipe":
        os.mkfifo(place)
    elif kind != "nothing":
        place.symlink_to(outside.parent if kind == "link" else "nowhere")
    remove_tree(place)
    assert not os.path.lexists(place)
    assert outside.exists()


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_folder_is_made_in_place_of_what_is_none(
    tmp_path: Path, outside: Path, kind: str
) -> None:
    place = tmp_path / "place"
    os.mkfifo(place) if kind == "pipe" else place.symlink_to(outside.parent)
    make_folder(place)
    assert place.is_dir()
    assert not place.is_symlink()
    (place / "kept").touch()
    make_folder(place)
    assert (place / "kept").exists()
