"""Writes every generated page: `python -m tools.reference`, or `make reference`."""

from __future__ import annotations

from tools.reference.pages import PARTS, ROOT, page

for path in PARTS:
    (ROOT / path).write_text(page(path))
