"""What a workspace is: the files that are packed, and those that are refused."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from workspaces.archive import Packed, pack
from workspaces.git import without_credentials
from workspaces.layout import WorkspaceError, limit_here
from workspaces.links import leaves

LIMIT = 10_000_000


def packed(root: Path, *exclude: str, limit: int = LIMIT) -> tuple[Packed, bytes]:
    target = io.BytesIO()
    return pack(root, target, limit=limit, exclude=exclude), target.getvalue()


def names(root: Path, *exclude: str) -> set[str]:
    _, data = packed(root, *exclude)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        inside = {name for name in tar.getnames() if name.startswith("files/")}
    return {name.removeprefix("files/") for name in inside}


def extra(root: Path, name: str, *exclude: str) -> str | None:
    _, data = packed(root, *exclude)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        if name not in tar.getnames():
            return None
        found = tar.extractfile(name)
        assert found is not None
        return found.read().decode()


def git(root: Path, *words: str) -> None:
    env = {
        **os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "a",
        "GIT_AUTHOR_EMAIL": "a@example.com", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@example.com",
    }  # fmt: skip
    subprocess.run(
        ["git", "-C", str(root), "-c", "protocol.file.allow=always", *words],
        check=True, capture_output=True, env=env,
    )  # fmt: skip


def write(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(f"{path}\n")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "code"
    root.mkdir()
    git(root, "init", "--quiet", "--initial-branch=main")
    write(root, "train.py", "lib/model.py", "data/big.bin", "notes.log")
    (root / ".gitignore").write_text("data/\n*.log\n")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    return root


# -- with git -------------------------------------------------------------------------------------


def test_what_git_tracks_or_does_not_ignore_is_packed(repository: Path) -> None:
    write(repository, "new.py", "lib/__pycache__/model.pyc", "env/bin/python", "env/pyvenv.cfg")
    assert names(repository) == {".gitignore", "train.py", "lib/model.py", "new.py"}


def test_a_tracked_file_is_packed_whatever_its_name(repository: Path) -> None:
    write(repository, "node_modules/own.js", "lib/__pycache__/model.pyc")
    git(repository, "add", "--force", "--all")
    assert {"node_modules/own.js", "lib/__pycache__/model.pyc"} <= names(repository)


def test_a_deleted_file_is_not_packed(repository: Path) -> None:
    (repository / "lib" / "model.py").unlink()
    assert names(repository) == {".gitignore", "train.py"}


def test_a_directory_below_the_root_packs_that_directory_only(repository: Path) -> None:
    write(repository, "lib/new.py")
    assert names(repository / "lib") == {"model.py", "new.py"}


def test_own_rules_leave_out_what_git_tracks_and_bring_back_what_it_ignores(
    repository: Path,
) -> None:
    write(repository, "data/small.csv")
    (repository / ".spectrainignore").write_text("# what the job needs\nlib/\n!data/small.csv\n")
    assert names(repository) == {".gitignore", ".spectrainignore", "train.py", "data/small.csv"}
    assert "train.py" not in names(repository, "*.py")


def test_the_files_of_submodules_and_of_repositories_inside_are_packed(
    repository: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "--quiet")
    write(other, "part.py", "out.txt")
    (other / ".gitignore").write_text("out.txt\n")
    git(other, "add", "--all")
    git(other, "commit", "--quiet", "--message=part")
    git(repository, "submodule", "--quiet", "add", str(other), "sub")
    git(tmp_path, "clone", "--quiet", str(other), str(repository / "inner"))
    write(repository, "sub/new.py", "sub/out.txt", "inner/out.txt")
    found = names(repository)
    assert {"sub/part.py", "sub/new.py", "inner/part.py", ".gitmodules"} <= found
    assert not {"sub/out.txt", "inner/out.txt", "sub", "inner"} & found
    assert not any(".git" in name.split("/") for name in found)


def test_a_submodule_that_is_not_checked_out_is_told(repository: Path, tmp_path: Path) -> None:
    git(repository, "submodule", "--quiet", "add", str(repository), "sub")
    git(repository, "commit", "--quiet", "--message=sub")
    copy = tmp_path / "copy"
    git(tmp_path, "clone", "--quiet", str(repository), str(copy))
    about, _ = packed(copy)
    assert about.notes == ["the submodule sub is not checked out"]


def test_a_directory_that_git_ignores_is_packed_as_without_git(repository: Path) -> None:
    write(repository, "data/train.py", "data/x.log")
    assert names(repository / "data") == {"big.bin", "train.py", "x.log"}


def test_a_repository_that_git_does_not_trust_is_told_in_its_words(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / ".git" / "config").write_text("[nonsense")
    with pytest.raises(WorkspaceError, match="git cannot read"):
        packed(repository)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(WorkspaceError, match="install git"):
        packed(repository)


def test_a_variable_of_a_hook_does_not_lead_elsewhere(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert "train.py" in names(repository)


def test_the_commit_and_the_change_are_recorded(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://me:secret@example.com/code.git?t=1")
    clean = json.loads(extra(repository, "git.json") or "")
    assert clean["branch"] == "main"
    assert clean["dirty"] is False
    assert len(clean["commit"]) == 40
    assert clean["remote"] == "https://example.com/code.git"
    assert extra(repository, "git.patch") is None

    (repository / "train.py").write_text("changed\n")
    (repository / "lib" / "model.py").unlink()
    git(repository, "config", "diff.noprefix", "true")
    git(repository, "config", "color.ui", "always")
    said = json.loads(extra(repository, "git.json") or "")
    assert said["dirty"] is True
    assert said["changed"] == ["lib/model.py", "train.py"]
    patch = extra(repository, "git.patch") or ""
    (repository / "train.py").unlink()
    git(repository, "checkout", "--quiet", ".")
    (repository / "change").write_text(patch)
    git(repository, "apply", "change")
    assert (repository / "train.py").read_text() == "changed\n"
    assert not (repository / "lib" / "model.py").exists()


def test_the_patch_shows_nothing_that_is_left_out(repository: Path) -> None:
    write(repository, "secret.txt")
    git(repository, "add", "secret.txt")
    git(repository, "commit", "--quiet", "--message=secret")
    (repository / "secret.txt").write_text("token\n")
    assert extra(repository, "git.patch", "secret.txt") is None
    assert "token" in (extra(repository, "git.patch") or "")


def test_a_repository_without_a_commit_has_none(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    write(tmp_path, "train.py")
    assert names(tmp_path) == {"train.py"}
    assert json.loads(extra(tmp_path, "git.json") or "")["commit"] is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:token@host/a.git", "https://host/a.git"),
        ("https://host:8443/a.git", "https://host:8443/a.git"),
        ("git@host:a/b.git", "git@host:a/b.git"),
        ("me:token@host:a", "host:a"),
        ("ssh://me@host/a", "ssh://host/a"),
        ("/srv/a.git", "/srv/a.git"),
    ],
)
def test_a_remote_is_recorded_without_credentials(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


# -- without git ----------------------------------------------------------------------------------


def test_without_git_all_but_the_usual_is_packed(tmp_path: Path) -> None:
    write(
        tmp_path, "train.py", "a/b.txt", "a/__pycache__/b.pyc", "x.pyc", "node_modules/y.js",
        ".venv/z", "env/pyvenv.cfg", "env/lib/q.py", "conda/conda-meta/history", ".hidden",
    )  # fmt: skip
    (tmp_path / "out").mkdir()
    assert names(tmp_path) == {"train.py", "a/b.txt", ".hidden", "out"}


@pytest.mark.parametrize("knows_git", [False, True])
def test_the_data_of_the_service_itself_is_not_sent(tmp_path: Path, knows_git: bool) -> None:
    if knows_git:
        git(tmp_path, "init", "--quiet")
    write(tmp_path, "train.py", "spectrain-data/experiments/.spectrain/probe", "runs/.spectrain/x")
    write(tmp_path, "spectrain-data/redis/aof", "runs/a-23456789/logs/output.log")
    assert names(tmp_path) == {"train.py"}


def test_own_rules_apply_without_git_too(tmp_path: Path) -> None:
    write(tmp_path, "train.py", "a.csv", "keep.csv", "big/x")
    (tmp_path / ".spectrainignore").write_text("*.csv\n!keep.csv\n/big\n")
    assert names(tmp_path) == {".spectrainignore", "train.py", "keep.csv"}


def test_a_pattern_that_is_none_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "train.py")
    with pytest.raises(WorkspaceError, match=r"'!' in \.spectrainignore or `exclude`"):
        packed(tmp_path, "!")


# -- the archive ----------------------------------------------------------------------------------


def test_the_same_files_give_the_same_archive(repository: Path, tmp_path: Path) -> None:
    first, data = packed(repository)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(repository), str(copy)], check=True)
    for path in sorted(copy.rglob("*.py")):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    again, other = packed(copy)
    assert again == first
    assert other == data
    assert (first.files, str(first)) == (3, f"workspace: 3 files, {first.bytes} B")

    (copy / "train.py").chmod(0o755)
    assert packed(copy)[0].sha256 != first.sha256


def test_a_file_that_keeps_changing_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, *(f"a{number}.py" for number in range(100)), "busy.log")
    stop = threading.Event()

    def grow() -> None:
        with (tmp_path / "busy.log").open("a") as file:
            while not stop.wait(0.01):
                file.write("more\n" * 100)
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(WorkspaceError, match=r"busy\.log changed each time"):
            packed(tmp_path)
    finally:
        stop.set()
        writer.join()
    assert "busy.log" in names(tmp_path)


@pytest.mark.parametrize("change", ["grow", "shrink", "vanish", "appear", "replace"])
def test_what_changes_while_it_is_packed_is_packed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    write(tmp_path, "a.py", "b.py", "c.py")
    changes: dict[str, Callable[[], object]] = {
        "grow": lambda: (tmp_path / "b.py").write_text("longer than it was before\n"),
        "shrink": lambda: (tmp_path / "b.py").write_text(""),
        "vanish": (tmp_path / "b.py").unlink,
        "appear": lambda: write(tmp_path, "d.py"),
        "replace": lambda: (tmp_path / "b.py").write_text("B.PY\n"),
    }
    left = [changes[change]]
    add = tarfile.TarFile.addfile

    def addfile(self: tarfile.TarFile, info: tarfile.TarInfo, fileobj: object = None) -> None:
        if left and info.name.endswith("b.py"):
            left.pop()()
        add(self, info, fileobj)  # type: ignore[arg-type]

    monkeypatch.setattr(tarfile.TarFile, "addfile", addfile)
    about, data = packed(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            found = tar.extractfile(member)
            assert found is not None
            assert found.read() == (tmp_path / member.name.removeprefix("files/")).read_bytes()
    assert about.files == len(list(tmp_path.iterdir()))


# -- what is refused ------------------------------------------------------------------------------


def test_links_inside_are_kept_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "a/b/c.txt")
    (tmp_path / "a" / "up").symlink_to("../a/b")
    (tmp_path / "gone").symlink_to("nowhere")
    _, data = packed(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert tar.getmember("files/a/up").linkname == "../a/b"
        assert tar.getmember("files/gone").linkname == "nowhere"


@pytest.mark.parametrize("target", ["/", "..", "../x", "a/../../x", "a/b/../../../x", "a/.."])
def test_a_link_that_leads_out_is_refused_by_its_name(tmp_path: Path, target: str) -> None:
    write(tmp_path, "a/b/c.txt")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(WorkspaceError, match=r"the link link -> .* cannot be sent"):
        packed(tmp_path)
    assert names(tmp_path, "/link") == {"a/b/c.txt"}


def test_a_link_may_lead_up_only_over_its_own_folders() -> None:
    assert not leaves("a/b/link", "../../x")
    assert leaves("a/b/link", "../../../x")
    assert leaves("a/link", "other/..")  # `other` may be a link to the root
    assert not leaves("link", "./a//b")
    assert leaves("link", "")


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.py")).write_text("")
    with pytest.raises(WorkspaceError, match=r"caf\\udce9\.py is not UTF-8"):
        packed(tmp_path)


def test_a_link_to_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a")
    (tmp_path / "link").symlink_to(os.fsdecode(b"caf\xe9"))
    with pytest.raises(WorkspaceError, match=r"link -> .* is not UTF-8"):
        packed(tmp_path)


def test_what_is_no_file_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "train.py")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(WorkspaceError, match="pipe is a named pipe"):
        packed(tmp_path)
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        with pytest.raises(WorkspaceError, match="socket is a socket"):
            packed(tmp_path)


def test_a_file_that_nobody_may_read_is_refused_by_its_name(tmp_path: Path) -> None:
    write(tmp_path, "train.py")
    (tmp_path / "train.py").chmod(0)
    if os.access(tmp_path / "train.py", os.R_OK):
        pytest.skip("root reads any file")
    with pytest.raises(WorkspaceError, match=r"train\.py cannot be read"):
        packed(tmp_path)


def test_a_large_workspace_is_refused_with_its_largest_files(tmp_path: Path) -> None:
    for number in range(7):
        (tmp_path / f"f{number}").write_bytes(bytes(1000 * number))
    with pytest.raises(WorkspaceError) as refused:
        packed(tmp_path, limit=20_000)
    words = str(refused.value)
    assert "21.0 kB, more than 20.0 kB" in words
    assert "f6 (6.0 kB), f5 (5.0 kB), f4 (4.0 kB), f3 (3.0 kB), f2 (2.0 kB)." in words
    assert "SPECTRAIN_WORKSPACE_BYTES" in words
    assert packed(tmp_path, limit=21_000)[0].files == 7


def test_200000_files_are_refused_with_the_folder_that_has_them(tmp_path: Path) -> None:
    write(tmp_path, "train.py", *(f"{number}" for number in range(4)))
    (tmp_path / "cache").mkdir()
    for number in range(200_000):
        os.link(tmp_path / f"{number % 4}", tmp_path / "cache" / f"x{number}")
    with pytest.raises(WorkspaceError, match=r"200,005 files, 200,000 of them in cache/"):
        packed(tmp_path)


def test_a_workspace_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="has no files"):
        packed(tmp_path)
    with pytest.raises(WorkspaceError, match="there is no directory"):
        packed(tmp_path / "nowhere")


def test_the_limit_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPECTRAIN_WORKSPACE_BYTES", raising=False)
    assert limit_here() == 256_000_000
    monkeypatch.setenv("SPECTRAIN_WORKSPACE_BYTES", "1000")
    assert limit_here() == 1000
    monkeypatch.setenv("SPECTRAIN_WORKSPACE_BYTES", "1 GB")
    with pytest.raises(WorkspaceError, match="SPECTRAIN_WORKSPACE_BYTES is '1 GB'"):
        limit_here()
