"""Free disk space, and file sizes in words."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)


def check_disk_space(path: str | Path, min_gb: float = 10) -> bool:
    """Return whether `min_gb` GiB are free on the file system of `path`; log a warning if not.

    `path` need not exist yet. Raises OSError.
    """
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 2**30
    if free_gb < min_gb:
        logger.warning("Only %.1f GiB are free on %s; %g GiB are wanted", free_gb, path, min_gb)
        return False
    return True


def file_size(size: float) -> str:
    """A number of bytes in a readable unit: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
