"""Remembers on this machine what was packed, so that a directory as it was is not read again."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from monitoring.files import temporary
from workspaces.archive import Packed

_MOST = 256


def _default_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "spectrain" / "packed.json"


class PackedBefore:
    """The archives of directories by their fingerprints (`workspaces.archive.State`).

    It never raises: without a file that can be read and written, it remembers nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        with contextlib.suppress(OSError, RuntimeError):  # nobody knows the home directory
            self._path = path or _default_path()

    def find(self, fingerprint: str) -> Packed | None:
        """What was packed when the directory was like this."""
        with contextlib.suppress(TypeError, ValueError):
            found = self._read().get(fingerprint)
            return Packed(**found) if found is not None else None
        return None

    def add(self, fingerprint: str, packed: Packed) -> None:
        """Remembers an archive, in place of the oldest if there are many."""
        if self._path is None:
            return
        known = self._read()
        known.pop(fingerprint, None)
        known[fingerprint] = asdict(packed)
        kept = dict(list(known.items())[-_MOST:])
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            draft = temporary(self._path)
            draft.write_text(json.dumps(kept))
            draft.replace(self._path)

    def _read(self) -> dict[str, dict[str, Any]]:
        if self._path is not None:
            with contextlib.suppress(OSError, ValueError):
                found = json.loads(self._path.read_bytes())
                if isinstance(found, dict):
                    return found
        return {}
