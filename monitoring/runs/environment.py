"""The hardware and the software of a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_FIELDS = ("Name", "Version")
_FIELD = re.compile(rf"^({'|'.join(_FIELDS)}): *(.*?)\s*$", re.MULTILINE)


def describe_hardware() -> dict[str, Any]:
    """Describe the GPU, the CPU and the memory (in GB) of this machine.

    The keys are the same on every machine: without a GPU, `gpu_available` is False, `gpu_count`
    is 0, and `gpu_model`, `gpu_memory_gb`, `gpu_driver` and `cuda_version` are None. A GPU is
    described only if torch is imported: a process that does not train does not initialize it.
    """
    gpu = _describe_gpu()
    return {
        "gpu_available": gpu["gpu_count"] > 0,
        **gpu,
        "cpu": _cpu_model(),
        "cpu_count": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "platform": platform.platform(),
        "python_version": platform.python_version(),
        "hostname": platform.node(),
    }


def describe_software() -> dict[str, Any]:
    """Return the versions of Python, torch and every installed package."""
    packages = dict(filter(None, map(_package, importlib.metadata.distributions())))
    return {
        "python": platform.python_version(),
        "torch": packages.get("torch"),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _package(distribution: importlib.metadata.Distribution) -> tuple[str, str] | None:
    """Name and version of a package; None for the remains of an uninstalled one.

    Parses only the head of its metadata: the properties of the library parse all of it each time,
    which takes half a second for a hundred packages.
    """
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    found = dict(_FIELD.findall(text.partition("\n\n")[0]))
    return (found["Name"], found["Version"]) if len(found) == len(_FIELDS) else None


def _describe_gpu() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {
            "gpu_model": None,
            "gpu_count": 0,
            "gpu_memory_gb": None,
            "gpu_driver": None,
            "cuda_version": None,
        }
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu_model": properties.name,
        "gpu_count": torch.cuda.device_count(),
        "gpu_memory_gb": round(properties.total_memory / 1e9, 1),
        "gpu_driver": _driver_version(),
        "cuda_version": torch.version.cuda,
    }


def _driver_version() -> str | None:
    question = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.split("\n")[0].strip() or None


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (OSError, ValueError):
        return None
