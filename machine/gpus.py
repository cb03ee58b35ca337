"""Lists the GPUs of this machine without CUDA, which would leave the process unable to fork."""

from __future__ import annotations

import os
import subprocess
from itertools import takewhile


def usable_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = (gpu.strip() for gpu in visible.split(","))
        # CUDA ignores all entries from the first invalid one on; "-1" commonly means no GPU.
        return tuple(takewhile(lambda gpu: gpu and not gpu.startswith("-"), gpus))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())
