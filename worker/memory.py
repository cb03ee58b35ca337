"""Whether the kernel killed for want of memory."""

from __future__ import annotations

from pathlib import Path


def oom_kills() -> int | None:
    """How many processes of this machine the kernel has killed so far; None where it won't tell.

    The counter is of the whole machine, within containers too: it says something only of a
    process that was killed by SIGKILL at the time when it moved.
    """
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), None)
