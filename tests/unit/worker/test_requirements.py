"""What of a requirements file decides which packages are installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.environment.requirements import Requirements, RequirementsError, read_requirements

PROJECT = '[project]\nname = "a"\nversion = "1"\ndependencies = ["numpy>=2", "click"]\n'
SCRIPT = (
    '# /// script\n# requires-python = ">=3.11"\n# dependencies = ["click", "numpy>=2"]\n# ///\n'
)


def write(root: Path, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_txt", ".txt").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def project(root: Path, text: str = PROJECT) -> Requirements:
    (root / "pyproject.toml").write_text(text)
    return read_requirements(root, "pyproject.toml")


def test_a_project_and_a_script_with_the_same_packages_share_an_environment(tmp_path: Path) -> None:
    write(tmp_path, train_py=f"#!/usr/bin/env python\n{SCRIPT}\nimport numpy\n")
    script = read_requirements(tmp_path, "train.py")
    assert script.files == {"requirements.txt": b"click\nnumpy>=2\n"}
    assert script.digest == project(tmp_path).digest


def test_what_else_changes_builds_nothing_anew(tmp_path: Path) -> None:
    before = project(tmp_path).digest
    assert project(tmp_path, PROJECT + "\n[tool.ruff]\nline-length = 100\n").digest == before
    assert project(tmp_path, PROJECT.replace("click", "click>8")).digest != before


def test_the_included_files_belong_to_it(tmp_path: Path) -> None:
    write(tmp_path, a__all_txt="-r sub/more.txt\n--constraint=../pins.txt\nclick\n",
          a__sub__more_txt="numpy # -r nothing.txt\n", pins_txt="numpy<3\n")  # fmt: skip
    found = read_requirements(tmp_path, "a/all.txt")
    assert set(found.files) == {"a/all.txt", "a/sub/more.txt", "pins.txt"}
    write(tmp_path, pins_txt="numpy<2\n")
    assert read_requirements(tmp_path, "a/all.txt").digest != found.digest


def test_it_is_written_as_it_lay(tmp_path: Path) -> None:
    write(tmp_path, a__all_txt="-r ../b.txt\n", b_txt="click\n")
    main = read_requirements(tmp_path, "a/all.txt").write(tmp_path / "out")
    assert main == tmp_path / "out/a/all.txt"
    assert (tmp_path / "out/b.txt").read_text() == "click\n"


def test_files_that_include_each_other_end(tmp_path: Path) -> None:
    write(tmp_path, a_txt="-r b.txt\n", b_txt="-r a.txt\nclick\n")
    assert set(read_requirements(tmp_path, "a.txt").files) == {"a.txt", "b.txt"}


@pytest.mark.parametrize(
    "line",
    [
        "click>=8; python_version > '3'", "click[extra]==8", "mine @ https://host/a/mine.whl",
        "git+https://host/a/mine.git@main", "--index-url https://host/simple", "-i https://host/",
        "--hash=sha256:abc", "--pre", "click \\\n  --hash=sha256:abc",
    ],
)  # fmt: skip
def test_what_any_machine_can_install(tmp_path: Path, line: str) -> None:
    write(tmp_path, a_txt=f"{line}\n")
    assert read_requirements(tmp_path, "a.txt").files["a.txt"].decode() == f"{line}\n"


@pytest.mark.parametrize(
    "line",
    [
        "-e .", "--editable=src", ".", "./wheels/a.whl", "..", ".[extra]", "wheels/a.whl",
        "-f wheels", "--find-links /wheels", "mine @ file:///wheels/a.whl", "file:///wheels/a.whl",
    ],
)  # fmt: skip
def test_what_lies_on_a_machine_belongs_into_setup(tmp_path: Path, line: str) -> None:
    write(tmp_path, a_txt=f"click\n{line}\n")
    with pytest.raises(RequirementsError, match=r"names files of a machine.*`setup`"):
        read_requirements(tmp_path, "a.txt")


@pytest.mark.parametrize(
    ("files", "path", "said"),
    [
        ({"a_txt": "-r /etc/passwd.txt\n"}, "a.txt", "which is not in the workspace"),
        ({"a_txt": "-r ../../a.txt\n"}, "a.txt", "which is not in the workspace"),
        ({}, "a.txt", "the workspace has no file a.txt"),
        ({"a_py": "import click\n"}, "a.py", "a.py has no header"),
        ({"a_py": SCRIPT + "\n" + SCRIPT}, "a.py", "a.py has more than one header"),
        ({"a_py": "# /// script\n# dependencies = [\n# ///\n"}, "a.py", "not valid TOML"),
        ({"a_py": "# /// script\n# dependencies = 1\n# ///\n"}, "a.py", "not a list of texts"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, files: dict[str, str], path: str, said: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(RequirementsError, match=said):
        read_requirements(tmp_path, path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.x]\n", "has no .project."),
        ('[project]\nname = "a"\ndynamic = ["dependencies"]\n', "dependencies are dynamic"),
        ("[project\n", "not valid TOML"),
    ],
)
def test_a_project_that_does_not_say_it(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequirementsError, match=said):
        project(tmp_path, text)


def test_a_link_out_of_the_workspace_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    write(tmp_path, secret_txt="click\n")
    (tmp_path / "code/a.txt").symlink_to("../secret.txt")
    with pytest.raises(RequirementsError, match="has no file"):
        read_requirements(tmp_path / "code", "a.txt")


def test_a_lock_needs_its_project(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_text("version = 1\n")
    with pytest.raises(RequirementsError, match=r"no file pyproject.toml \(uv.lock needs it\)"):
        read_requirements(tmp_path, "uv.lock")
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    assert read_requirements(tmp_path, "uv.lock").is_lock
