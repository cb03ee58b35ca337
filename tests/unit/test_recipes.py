"""The code in the recipes is that of programs which the gauntlet runs."""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent

import pytest

from bench.gauntlet.kinds import KINDS, PROGRAMS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/recipes.md").read_text()
BLOCKS = re.findall(r"^```python\n# (\w+\.py)\n(.*?)^```", TEXT, re.M | re.S)


def test_every_block_names_its_program() -> None:
    assert len(BLOCKS) == len(re.findall(r"^```python", TEXT, re.M)) >= 10
    used = " ".join(word for kind in KINDS for word in kind.command)
    assert all(name in used for name, _ in BLOCKS)


@pytest.mark.parametrize(("name", "block"), BLOCKS)
def test_a_block_is_part_of_its_program(name: str, block: str) -> None:
    lines = block.rstrip().splitlines()
    program = (PROGRAMS / name).read_text().splitlines()
    parts = (program[at : at + len(lines)] for at in range(len(program)))
    assert lines in (dedent("\n".join(part)).splitlines() for part in parts)
