"""What the tests of inputs share: a cache of their own, and what is in it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jobs.settings import Settings
from worker.cache.cache import Cache
from worker.inputs.fetch import Fetched, fetch_input

MB = 1 << 20
BLOB = os.urandom(1 << 16) * 48  # 3 MiB


class Inputs:
    """Fetches inputs into an empty cache, and holds them until it is closed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: list[Fetched] = []

    def fetch(self, url: str, **options: Any) -> Fetched | None:
        """The input at a URL, with the settings of the environment."""
        settings = Settings(scratch_dir=self.root.parent)
        found = fetch_input(Cache(self.root, 10**9), url, settings, **options)
        if found is not None:
            self._held.append(found)
        return found

    def have(self, url: str, **options: Any) -> Fetched:
        """The input at a URL, which is wanted all the time."""
        found = self.fetch(url, **options)
        assert found is not None
        return found

    def left(self) -> list[str]:
        """What the cache has beside lock files."""
        return [path.name for path in self.root.glob("*/*") if path.suffix != ".lock"]

    def close(self) -> None:
        """Lets the cache remove them."""
        for found in self._held:
            found.held.close()
        self._held.clear()


def content(path: Path) -> dict[str, bytes]:
    """The files below a directory, by path; folders without files have a `/` at the end."""
    found = {}
    for below in path.rglob("*"):
        if below.is_file():
            found[str(below.relative_to(path))] = below.read_bytes()
        elif not any(below.iterdir()):
            found[f"{below.relative_to(path)}/"] = b""
    return found
