"""What `pip install` brings: the sdist, and the wheel that is built from it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = {
    pattern.removesuffix("*")
    for pattern in PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
}
BUILD_SDIST = "import sys, setuptools.build_meta as b; b.build_sdist(sys.argv[1])"


def tracked() -> list[str]:
    """The files that git knows and that are there."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    names = listing.stdout.decode().split("\0")
    return [name for name in names if name and (ROOT / name).is_file()]


def packaged() -> set[str]:
    """The tracked files of the packages, code and data."""
    return {name for name in tracked() if name.split("/")[0] in PACKAGES and "/" in name}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy of the tracked files: a build leaves directories behind, and reads those of the last.
    source = tmp_path_factory.mktemp("source")
    for name in tracked():
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    target = tmp_path_factory.mktemp("sdist")
    # Warnings of setuptools about our metadata become errors in a later version.
    command = [sys.executable, "-P", "-W", "error", "-c", BUILD_SDIST, str(target)]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (found,) = target.iterdir()
    return found


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--no-cache-dir")
    command = [sys.executable, "-m", "pip", "wheel", *options, "--wheel-dir", target, sdist]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (found,) = target.iterdir()
    return found


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def read(wheel: Path, name: str) -> bytes:
    """A file of the wheel's `dist-info`."""
    folder = f"spectrain-{PROJECT['project']['version']}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{folder}/{name}")


def metadata(wheel: Path) -> Message:
    return message_from_bytes(read(wheel, "METADATA"))


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel: Path) -> None:
    shipped = {name for name in names(wheel) if ".dist-info/" not in name}
    assert shipped == packaged()
    assert any(name.endswith(".lua") for name in shipped)


def test_every_package_says_that_it_is_typed(wheel: Path) -> None:
    assert {f"{package}/py.typed" for package in PACKAGES} <= names(wheel)
    assert "Typing :: Typed" in metadata(wheel).get_all("Classifier", [])


def test_the_client_is_imported_by_the_name_of_the_distribution(
    wheel: Path, tmp_path: Path
) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)  # noqa: S202 - our own
    script = (
        "import spectrain, sys; from spectrain import Client, JobSpec, State;"
        "print(spectrain.__file__, Client.__module__, 'flask' in sys.modules)"
    )
    # -P and an empty directory: the checkout is on no path.
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], cwd=tmp_path, check=True, capture_output=True,
        text=True, env={"PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    file, module, has_server = done.stdout.split()
    assert Path(file) == tmp_path / "spectrain/__init__.py"
    assert (module, has_server) == ("api.client.client", "False")


def test_the_licence_is_in_the_wheel_and_in_the_sdist(sdist: Path, wheel: Path) -> None:
    text = (ROOT / "LICENSE").read_bytes()
    for words in (b"Version 2.0, January 2004", b"END OF TERMS AND CONDITIONS", b"APPENDIX"):
        assert words in text
    assert read(wheel, "licenses/LICENSE") == text
    with tarfile.open(sdist) as archive:
        member = archive.extractfile(f"{sdist.name.removesuffix('.tar.gz')}/LICENSE")
        assert member is not None
        assert member.read() == text


def test_the_metadata_names_licence_addresses_and_authors(wheel: Path) -> None:
    found = metadata(wheel)
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Author"] == "Spectrain contributors"
    urls = dict(entry.split(", ") for entry in found.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Issues", "Changelog"}
    assert all(url.startswith("https://github.com/spectrain/spectrain") for url in urls.values())
