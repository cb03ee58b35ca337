"""A layer is an environment of its own that sees what is beneath it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.wheels import make_wheel
from worker.environment.layer import layer_at, make_layer
from worker.environment.python import InterpreterError, Python

TELLS = "import json, sys; print(json.dumps([sys.prefix, sys.executable, sys.path]))"


def told(python: Path) -> tuple[str, str, list[str]]:
    said = subprocess.run(
        [str(python), "-c", TELLS], capture_output=True, text=True, check=True, cwd="/"
    )
    prefix, executable, path = json.loads(said.stdout)
    return prefix, executable, path


def put(layer: Python, folder: Path, name: str, version: str = "1.0") -> None:
    """Installs a package into a layer."""
    wheel = make_wheel(folder, name, version, scripts=[f"{name}-run"])
    subprocess.run(
        ["python3", "-c", f"import zipfile; zipfile.ZipFile({str(wheel)!r}).extractall("
         f"{str(layer.packages[0])!r})"], check=True,
    )  # fmt: skip


def test_each_layer_sees_those_beneath_and_the_upper_one_wins(tmp_path: Path) -> None:
    own = Python.of_this_process()
    lower = make_layer(tmp_path / "lower", own)
    put(lower, tmp_path, "tiny", "1.0")
    put(lower, tmp_path, "other")
    upper = make_layer(tmp_path / "upper", lower)
    put(upper, tmp_path, "tiny", "2.0")
    prefix, executable, path = told(upper.executable)
    assert (prefix, executable) == (str(tmp_path / "upper"), str(tmp_path / "upper/bin/python"))
    positions = [path.index(str(folder)) for folder in upper.packages]
    assert positions == sorted(positions)
    code = "import tiny, other, click; print(tiny.VERSION)"
    said = subprocess.run(
        [upper.executable, "-c", code], capture_output=True, text=True, check=False, cwd="/"
    )
    assert said.stdout == "2.0\n", said.stderr
    assert upper.version_of("tiny") == "2.0"
    assert own.version_of("tiny") is None


def test_programs_beneath_run_in_the_layer(tmp_path: Path) -> None:
    lower = make_layer(tmp_path / "lower", Python.of_this_process())
    put(lower, tmp_path, "tiny")
    upper = make_layer(tmp_path / "upper", lower)
    said = subprocess.run(
        [tmp_path / "upper/bin/tiny-run"], capture_output=True, text=True, check=False
    )
    assert said.stdout == f"tiny 1.0 {tmp_path / 'upper'}\n", said.stderr
    assert (upper.executable.parent / "torchrun").exists()


@pytest.mark.parametrize("name", ["with a space", "x" * 120])
def test_a_path_that_no_first_line_can_hold(tmp_path: Path, name: str) -> None:
    lower = make_layer(tmp_path / "lower", Python.of_this_process())
    put(lower, tmp_path, "tiny")
    make_layer(tmp_path / name, lower)
    program = tmp_path / name / "bin" / "tiny-run"
    said = subprocess.run([program], capture_output=True, text=True, check=False)
    assert said.stdout == f"tiny 1.0 {tmp_path / name}\n", said.stderr


def test_a_layer_is_found_again(tmp_path: Path) -> None:
    own = Python.of_this_process()
    assert make_layer(tmp_path / "layer", own) == layer_at(tmp_path / "layer", own)


def test_another_package_is_another_fingerprint(tmp_path: Path) -> None:
    layer = make_layer(tmp_path / "layer", Python.of_this_process())
    before = layer.fingerprint()
    put(layer, tmp_path, "tiny", "1.0")
    assert layer.fingerprint() != before


def test_an_interpreter_says_what_it_has(tmp_path: Path) -> None:
    own = Python.of_this_process()
    found = Python.at(str(own.executable), {"PATH": "/bin", "PYTHONPATH": str(tmp_path)})
    assert found == own


def test_a_program_that_is_no_interpreter(tmp_path: Path) -> None:
    for path, said in (("/bin/true", "does not answer as a Python does"),
                       (str(tmp_path), "Permission denied"),
                       (str(tmp_path / "no"), "No such file")):  # fmt: skip
        with pytest.raises(InterpreterError, match=said):
            Python.at(path, {})
