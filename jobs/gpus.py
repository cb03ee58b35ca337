"""The GPUs of this machine, asked without touching CUDA: a process that did cannot fork."""

from __future__ import annotations

import os
import subprocess


def usable_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, by the names CUDA_VISIBLE_DEVICES takes."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return tuple(gpu for gpu in visible.split(",") if gpu)
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(answer.stdout.split())
