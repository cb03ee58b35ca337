"""Decides whether GPUs are fit to run a job, from the readings of `worker.gpu.nvml`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Xids that a faulty program causes; they say nothing about the GPU.
PROGRAM_XIDS = frozenset({13, 31, 43, 45, 68, 109})
_XID_MEANING = {
    48: "uncorrectable memory error",
    62: "firmware halted",
    63: "memory page retirement or row remapping",
    64: "memory page retirement or row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    94: "contained memory error",
    95: "uncontained memory error",
    119: "firmware does not answer",
}

# Memory that a desktop or a monitoring agent may hold on a free GPU.
_FREE_BYTES, _FREE_SHARE = 2 << 30, 0.1
# The driver needs a moment to free the memory of a killed process.
SETTLE_SECONDS = 10.0
# NVML answers in milliseconds, but may never answer for a GPU that hangs.
SILENT_SECONDS = 60.0


@dataclass(frozen=True)
class GpuReading:
    """What NVML reports of one GPU; a field that it cannot report keeps its default."""

    gpu: str
    error: str = ""
    xids: tuple[int, ...] = ()  # since the worker started
    needs_reset: bool = False  # memory is pending retirement or remapping
    remap_failed: bool = False
    used_bytes: int = 0
    total_bytes: int = 0
    busy_percent: float | None = None  # of the time, some kernel ran
    celsius: float | None = None
    watts: float | None = None


def unhealthy(readings: Sequence[GpuReading], *, idle_seconds: float, silent_seconds: float) -> str:
    """Why the GPUs must not run a job, as a sentence; '' if they may.

    `idle_seconds` is the time since the worker's last job ended, 0 while one runs; `silent_seconds`
    is the time since NVML last answered.
    """
    if silent_seconds > SILENT_SECONDS:
        return "the GPU driver (NVML) does not answer"
    faults = (fault_of(reading, idle_seconds) for reading in readings)
    return "; ".join(fault for fault in faults if fault)


def fault_of(reading: GpuReading, idle_seconds: float) -> str:
    """Why a GPU must not run a job, as `unhealthy` says; '' if it may."""
    # A name such as GPU-2f6e… says what it is.
    name = f"GPU {reading.gpu}" if reading.gpu.isdigit() else reading.gpu
    if reading.error:
        return f"{name} cannot be read (NVML: {reading.error})"
    for xid in reading.xids:
        if xid not in PROGRAM_XIDS:
            meaning = f" ({_XID_MEANING[xid]})" if xid in _XID_MEANING else ""
            return f"{name} reported Xid {xid}{meaning}; restart the worker once the GPU is healthy"
    if reading.remap_failed:
        return f"{name} has bad memory that could not be remapped"
    if reading.needs_reset:
        return f"{name} has bad memory and needs a reset"
    allowed = max(_FREE_BYTES, reading.total_bytes * _FREE_SHARE)
    if idle_seconds >= SETTLE_SECONDS and reading.used_bytes > allowed:
        used = reading.used_bytes / 2**30
        return f"{name} has {used:.1f} GiB of memory in use while this worker runs no job"
    return ""
