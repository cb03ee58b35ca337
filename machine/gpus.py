"""The GPUs of this machine, asked without touching CUDA: a process that did cannot fork."""

from __future__ import annotations

import os
import subprocess
from itertools import takewhile


def usable_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, by the names CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        gpus = (gpu.strip() for gpu in visible.split(","))
        # CUDA stops at the first entry that is no device: "-1" is how people say none.
        return tuple(takewhile(lambda gpu: gpu and not gpu.startswith("-"), gpus))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())
