"""What comes from npm is what the registry has, byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "api" / "page" / "static" / "vendor"
VERSIONS = "versions.json"


def entries() -> list[tuple[Path, dict[str, Any]]]:
    return [
        (FOLDER / name, entry)
        for name, entry in json.loads((FOLDER / VERSIONS).read_text()).items()
    ]


def test_every_vendored_file_has_the_hash_that_its_versions_file_names() -> None:
    for file, entry in entries():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == entry["sha256"], file
    there = {path.name for path in FOLDER.iterdir()} - {VERSIONS}
    assert there == {file.name for file, _ in entries()}


def test_every_vendored_package_comes_with_its_licence() -> None:
    licences = {entry["package"] for file, entry in entries() if file.name.startswith("LICENSE")}
    assert {entry["package"] for _, entry in entries()} <= licences


def test_every_vendored_file_is_the_one_in_the_package_of_the_registry() -> None:
    packages = sorted({(entry["package"], entry["version"]) for _, entry in entries()})
    for name, version in packages:
        url = f"https://registry.npmjs.org/{name}/-/{name}-{version}.tgz"
        try:
            answer = httpx.get(url, timeout=20, follow_redirects=True)
        except httpx.HTTPError as error:
            pytest.skip(f"the registry cannot be reached: {error}")
        if not answer.is_success:
            pytest.skip(f"the registry answers {answer.status_code}")
        with tarfile.open(fileobj=io.BytesIO(answer.content)) as archive:
            for file, entry in entries():
                if (entry["package"], entry["version"]) == (name, version):
                    member = archive.extractfile(f"package/{entry['file']}")
                    assert member is not None
                    assert member.read() == file.read_bytes(), file
