"""The changelog can be read: known sections, one line for each change, none twice."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
SECTIONS = ["Added", "Changed", "Fixed"]


def test_each_version_has_the_known_sections_in_order() -> None:
    versions = re.split(r"^## ", TEXT, flags=re.M)[1:]
    assert versions
    for version in versions:
        assert re.match(r"(Unreleased|\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\))\n", version)
        found = re.findall(r"^### (.+)$", version, re.M)
        assert found
        assert found == [section for section in SECTIONS if section in found]


def test_every_change_is_one_line_of_at_most_160_characters() -> None:
    for line in TEXT.splitlines():
        assert len(line) <= 160, line
        # A heading, a group of changes, a change: nothing is continued on a second line.
        assert re.fullmatch(r"|#{1,3} .+|[A-Z][a-z ]+|- \S.*[.)]", line), line


def test_no_change_stands_twice() -> None:
    lines = [re.sub(r"\W+", " ", line).lower() for line in TEXT.splitlines() if line[:2] == "- "]
    assert len(lines) > 50
    assert [line for line, count in Counter(lines).items() if count > 1] == []
