"""The pages with generated parts, and what generates each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from tools.reference import command_line, http_api, job_file, library, metrics, packages, settings
from tools.reference.markdown import replace_block

ROOT = Path(__file__).parents[2]

# A page, the name in its two markers, and the function that makes what stands between them.
PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "docs/architecture.md": ("packages", packages.block),
    "docs/reference/command-line.md": ("commands", command_line.block),
    "docs/reference/http-api.md": ("calls", http_api.block),
    "docs/reference/job-file.md": ("keys", job_file.block),
    "docs/reference/metrics.md": ("metrics", metrics.block),
    "docs/reference/python-library.md": ("library", library.block),
    "docs/settings.md": ("settings", settings.block),
}


def page(path: str) -> str:
    """The page as it should be: its own text, with the generated part made anew."""
    name, block = PARTS[path]
    return replace_block((ROOT / path).read_text(), name, block())
