"""The house rules: small files, small folders, one line about each package.

The contracts in pyproject.toml hold who may import whom, and that no imports run in a circle.
"""

from __future__ import annotations

import ast
import subprocess
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.lua"],
    cwd=ROOT, check=True, capture_output=True, text=True,
).stdout.split()  # fmt: skip
OURS = [Path(name) for name in TRACKED if (ROOT / name).exists() and not name.startswith("tests/")]
PACKAGES = [path for path in OURS if path.name == "__init__.py"]
UNSHIPPED = {"bench", "tools"}
MAX_LINES, MAX_TEST_LINES, MAX_MODULES = 400, 600, 15


def lines_of(path: Path) -> int:
    return len((ROOT / path).read_text().splitlines())


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    assert {str(p): lines_of(p) for p in OURS if lines_of(p) > MAX_LINES} == {}
    tests = [Path(n) for n in TRACKED if n.startswith("tests/") and (ROOT / n).exists()]
    assert {str(p): lines_of(p) for p in tests if lines_of(p) > MAX_TEST_LINES} == {}


def test_no_folder_has_more_modules_than_a_reader_can_scan() -> None:
    folders = Counter(str(path.parent) for path in OURS)
    assert {name: count for name, count in folders.items() if count > MAX_MODULES} == {}


@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: str(path.parent))
def test_each_package_says_in_one_line_what_is_in_it(path: Path) -> None:
    text = ast.get_docstring(ast.parse((ROOT / path).read_text()))
    assert text, f"{path} has no docstring"
    assert text.splitlines()[0].endswith("."), text
    folder = ROOT / path.parent
    assert {p.name for p in folder.iterdir() if p.is_dir() and any(p.glob("*.py"))} <= {
        other.parent.name for other in PACKAGES if other.parent.parent == path.parent
    }, f"a folder of {path.parent} is no package"


def test_every_room_has_contracts_that_a_new_module_cannot_escape() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        rules = tomllib.load(file)["tool"]["importlinter"]
    rooms = {str(path.parent) for path in PACKAGES if len(path.parts) == 2} - UNSHIPPED
    assert set(rules["root_packages"]) == rooms
    layered = {
        room: rule for rule in rules["contracts"] if rule["type"] == "layers"
        for room in rule["containers"]
    }  # fmt: skip
    packages = {str(p.parent) for p in PACKAGES if len(p.parts) == 3}
    assert {name.split("/")[0] for name in packages} - UNSHIPPED <= layered.keys()
    assert all(rule["exhaustive"] for rule in layered.values())
    circles = next(rule for rule in rules["contracts"] if rule["type"] == "acyclic_siblings")
    assert set(circles["ancestors"]) == rooms
