"""Lists the GPUs of this machine without CUDA, which would leave the process unable to fork."""

from __future__ import annotations

import os
import subprocess
from itertools import takewhile

# What device plugins of Kubernetes and the container toolkit write for no GPU.
_NO_GPU = {"nodevfiles", "none", "void"}
_NEEDED = {"PATH", "LD_LIBRARY_PATH"}  # of the environment
# The second for drivers that do not know the fields of the first.
_QUERIES = ("index,uuid,mig.mode.current", "index")


def usable_gpus() -> tuple[str, ...]:
    """The NVIDIA GPUs that this process may use, named as in CUDA_VISIBLE_DEVICES.

    By UUID where that is known: an index means another GPU to CUDA than to NVML, unless
    CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return tuple(_uuids().values())
    gpus = (gpu.strip() for gpu in visible.split(","))
    # CUDA ignores all entries from the first invalid one on; "-1" commonly means no GPU.
    named = tuple(takewhile(_is_gpu, gpus))
    order = os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    if order != "PCI_BUS_ID" or not any(gpu.isdigit() for gpu in named):
        return named
    uuids = _uuids()
    return tuple(uuids.get(gpu, gpu) for gpu in named)


def _is_gpu(name: str) -> bool:
    return bool(name) and not name.startswith("-") and name.lower() not in _NO_GPU


def _uuids() -> dict[str, str]:
    """The GPUs by index in the order of the bus; a divided one (MIG) keeps its index as name."""
    # Whoever may look into that process is to find no secrets of this one.
    env = {name: value for name, value in os.environ.items() if name in _NEEDED}
    for fields in _QUERIES:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, timeout=20, check=True, env=env
            )
        except FileNotFoundError:
            break
        except (OSError, subprocess.SubprocessError):
            continue
        gpus = [[field.strip() for field in line.split(",")] for line in answer.stdout.splitlines()]
        return {index: _name(index, *more) for index, *more in gpus}
    return {}


def _name(index: str, uuid: str = "", mig: str = "") -> str:
    return uuid if uuid.startswith("GPU-") and mig != "Enabled" else index
