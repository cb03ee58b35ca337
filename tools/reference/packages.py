"""The table of packages in docs/architecture.md: each with the first line of its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tools.reference.markdown import code, table

ROOT = Path(__file__).parents[2]
ROOMS = (
    "monitoring",
    "jobs",
    "worker",
    "api",
    "machine",
    "spectrain",
    "spectral_gpt",
    "workload",
    "bench",
    "tools",
)


def block() -> str:
    """The table."""
    rows = ([code(f"{path}/"), docstring] for path, docstring in packages(ROOT))
    return table(["package", "what is in it"], rows)


def packages(root: Path) -> Iterator[tuple[str, str]]:
    """The rooms and the packages in each, with the first line of their docstrings.

    A map that shows what is in those as well is too large to be read.
    """
    for room in ROOMS:
        inits = [root / room / "__init__.py", *(root / room).glob("*/__init__.py")]
        for path in sorted(inits, key=lambda path: path.parent):
            module = ast.parse(path.read_text())
            docstring = (ast.get_docstring(module) or "").partition("\n")[0]
            yield path.parent.relative_to(root).as_posix(), docstring
