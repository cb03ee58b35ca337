"""Whether there is room for what a run will write."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

logger = logging.getLogger(__name__)


def check_disk_space(path: str | Path, min_gb: float = 10) -> bool:
    """Whether at least `min_gb` GiB are free where `path` is or will be; warns where not."""
    place = Path(path).absolute()
    while not place.exists():
        place = place.parent
    free_gb = shutil.disk_usage(place).free / 2**30
    if free_gb < min_gb:
        logger.warning("Only %.1f GiB free on %s, %g wanted", free_gb, path, min_gb)
        return False
    return True
