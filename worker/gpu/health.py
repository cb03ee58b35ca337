"""Whether a GPU may be given a job: judged here, purely, from what `worker.gpu.nvml` reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Xids that a program brings about by itself; they say nothing of the GPU.
PROGRAM_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_XID_MEANING = {
    48: "memory error that could not be corrected",
    62: "its firmware halted",
    63: "memory to be retired or remapped",
    64: "memory that could not be retired or remapped",
    74: "NVLink error",
    79: "it has fallen off the bus",
    94: "memory error, contained",
    95: "memory error, not contained",
    119: "its firmware does not answer",
}

# What a desktop or a monitoring agent may hold of a GPU that is free.
_FREE_BYTES, _FREE_SHARE = 2 << 30, 0.1
# The driver takes a moment to free what a killed process held.
SETTLE_SECONDS = 10.0
# NVML answers in milliseconds; of a GPU that hangs, it may never.
SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class GpuReading:
    """What NVML tells of one GPU; what it cannot tell is left as it is here."""

    gpu: str
    error: str = ""
    xids: tuple[int, ...] = ()  # since the worker started
    needs_reset: bool = False  # memory waits to be retired or remapped
    remap_failed: bool = False
    used_bytes: int = 0
    total_bytes: int = 0


def unhealthy(readings: Sequence[GpuReading], *, idle_seconds: float, silent_seconds: float) -> str:
    """Why the GPUs must not be given a job, in a sentence; '' when they may.

    `idle_seconds` is for how long nothing of the worker's has run, 0 while something does;
    `silent_seconds` for how long NVML has not answered.
    """
    if silent_seconds > SILENT_SECONDS:
        return "the GPU driver (NVML) does not answer"
    whys = (_why(reading, idle_seconds) for reading in readings)
    return "; ".join(why for why in whys if why)


def _why(reading: GpuReading, idle_seconds: float) -> str:
    name = f"GPU {reading.gpu}"
    if reading.error:
        return f"{name} cannot be read (NVML: {reading.error})"
    for xid in reading.xids:
        if xid not in PROGRAM_XIDS:
            meaning = f" ({_XID_MEANING[xid]})" if xid in _XID_MEANING else ""
            return f"{name} reported Xid {xid}{meaning}; restart the worker once it is well"
    if reading.remap_failed:
        return f"{name} has bad memory that could not be remapped"
    if reading.needs_reset:
        return f"{name} has bad memory and needs a reset"
    allowed = max(_FREE_BYTES, reading.total_bytes * _FREE_SHARE)
    if idle_seconds >= SETTLE_SECONDS and reading.used_bytes > allowed:
        used = reading.used_bytes / 2**30
        return f"{name} has {used:.1f} GiB of memory in use though this worker runs no job"
    return ""
