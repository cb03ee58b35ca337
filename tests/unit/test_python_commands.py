"""Every Python that our code, images and chart start imports nothing from its working directory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = (
    "api", "bench", "jobs", "machine", "monitoring", "spectrain", "spectral_gpt", "tools",
    "worker", "workload", "workspaces",
)  # fmt: skip
CODE = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
OTHERS = sorted(
    [
        *ROOT.glob("Dockerfile*"), *ROOT.glob("*.y*ml"),
        *(path for room in ("deploy", "helm") for path in (ROOT / room).rglob("*")
          if path.suffix in {".sh", ".yaml", ".yml", ".tpl", ".txt"}),
    ]
)  # fmt: skip
# An interpreter, its flags, and what it is to run: in a list of Python, of JSON, of YAML, or in sh.
IN_CODE = re.compile(r'(?:executable|"python3?")\s*,\s*((?:"-\w+"\s*,\s*)*)"-[mc]"')
IN_OTHERS = re.compile(r'\bpython3?"?[\s,]+((?:"?-\w+"?[\s,]+)*)"?-[mc]\b')
# The benches are not installed: they lie in the working directory.
BENCH = re.compile(r"python -m bench\b")


def flags(path: Path) -> list[str]:
    pattern = IN_CODE if path.suffix == ".py" else IN_OTHERS
    return pattern.findall(BENCH.sub("", path.read_text()))


@pytest.mark.parametrize("path", [*CODE, *OTHERS], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_python_that_is_started_has_safe_path(path: Path) -> None:
    for given in flags(path):
        # -I, isolated, is -P and more.
        assert re.search(r"-\w*[IP]", given), "start it by python_module, or with -P"


def test_the_commands_are_found(tmp_path: Path) -> None:
    found = [path.relative_to(ROOT).as_posix() for path in [*CODE, *OTHERS] if flags(path)]
    assert {"machine/python.py", "monitoring/plots/client.py", "worker/launch/child.py"} <= {*found}
    assert {"Dockerfile", "deploy/compose/storage.sh"} <= {*found}
    for name, text in (
        ("a.py", '[sys.executable, "-m", "worker"]'), ("b.py", '["python", "-u", "-m", "x"]'),
        ("c.py", '[\n    sys.executable,\n    "-c",\n]'), ("a.sh", "python3 -m x"),
        ("Dockerfile", 'CMD ["python", "-m", "x"]'), ("a.yaml", "test: [CMD, python, -u, -m, x]"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text)
        assert [given for given in flags(tmp_path / name) if "P" not in given], name
