"""Reads a worker's GPUs through NVML, which unlike CUDA leaves a process able to fork."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from worker.gpu.health import GpuReading

log = logging.getLogger(__name__)


class Nvml:
    """Reads the GPUs `gpus`, named as in CUDA_VISIBLE_DEVICES.

    `library` is the module pynvml; its functions raise its `NVMLError`.
    """

    def __init__(self, library: Any, gpus: Sequence[str]) -> None:
        self._nvml = library
        self._gpus = tuple(gpus)
        self._started = False
        self._events: dict[str, Any] = {}
        self._xids: dict[str, tuple[int, ...]] = {}

    def names(self) -> tuple[str, ...]:
        """The model of each GPU, such as `NVIDIA H100 80GB HBM3`; its name if NVML has none."""
        found = []
        for gpu in self._gpus:
            name = gpu
            with contextlib.suppress(self._nvml.NVMLError):
                name = str(self._nvml.nvmlDeviceGetName(self._handle(gpu)))
            found.append(name)
        return tuple(found)

    def read(self) -> list[GpuReading]:
        """A reading of each GPU."""
        return [self._read(gpu) for gpu in self._gpus]

    def _read(self, gpu: str) -> GpuReading:
        nvml = self._nvml
        try:
            handle = self._handle(gpu)
            used, total = self._memory(handle)
            with contextlib.suppress(nvml.NVMLError_NotSupported):
                self._collect_xids(gpu, handle)
        except nvml.NVMLError as error:
            return GpuReading(gpu, error=str(error), xids=self._xids.get(gpu, ()))
        retiring, remapping, failed = False, False, False
        # Each GPU model supports one of the two.
        with contextlib.suppress(nvml.NVMLError):
            status = nvml.nvmlDeviceGetRetiredPagesPendingStatus(handle)
            retiring = status == nvml.NVML_FEATURE_ENABLED
        with contextlib.suppress(nvml.NVMLError):
            _, _, pending, failure = nvml.nvmlDeviceGetRemappedRows(handle)
            remapping, failed = bool(pending), bool(failure)
        return GpuReading(
            gpu,
            xids=self._xids.get(gpu, ()),
            needs_reset=retiring or remapping,
            remap_failed=failed,
            used_bytes=used,
            total_bytes=total,
            busy_percent=self._number(lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu),
            celsius=self._number(
                lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)
            ),
            watts=self._number(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000),
        )

    def _number(self, read: Callable[[], float]) -> float | None:
        """What `read` answers; None where a GPU, or a part of one (MIG), cannot report it."""
        try:
            return float(read())
        except self._nvml.NVMLError:
            return None

    def _handle(self, gpu: str) -> Any:
        nvml = self._nvml
        if not self._started:
            nvml.nvmlInit()
            self._started = True
        if gpu.isdigit():
            return nvml.nvmlDeviceGetHandleByIndex(int(gpu))
        # CUDA accepts a prefix of a UUID.
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if str(nvml.nvmlDeviceGetUUID(handle)).startswith(gpu):
                return handle
        return nvml.nvmlDeviceGetHandleByUUID(gpu)

    def _memory(self, handle: Any) -> tuple[int, int]:
        """Used and total bytes; 0 and 0 for a GPU without memory of its own."""
        nvml = self._nvml
        try:
            # Version 2 excludes the memory reserved by the driver.
            memory = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        except nvml.NVMLError_FunctionNotFound:  # a driver older than version 2
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError_NotSupported:
            return 0, 0
        return int(memory.used), int(memory.total)

    def _collect_xids(self, gpu: str, handle: Any) -> None:
        nvml = self._nvml
        if gpu not in self._events:
            events = nvml.nvmlEventSetCreate()
            device = handle
            if gpu.startswith("MIG-"):
                device = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            nvml.nvmlDeviceRegisterEvents(device, nvml.nvmlEventTypeXidCriticalError, events)
            self._events[gpu] = events
        seen = self._xids.get(gpu, ())
        with contextlib.suppress(nvml.NVMLError_Timeout):
            while True:
                xid = int(nvml.nvmlEventSetWait_v2(self._events[gpu], 0).eventData)
                seen = self._xids[gpu] = seen if xid in seen else (*seen, xid)


def open_nvml(gpus: Sequence[str]) -> Nvml | None:
    """NVML for these GPUs; None without GPUs or without NVML."""
    if not gpus:
        return None
    try:
        library = import_module("pynvml")
        library.nvmlInit()
    except ModuleNotFoundError:
        log.warning("GPU health checks are off: nvidia-ml-py is not installed")
        return None
    except library.NVMLError_LibraryNotFound:
        log.warning("GPU health checks are off: NVML was not found on this machine")
        return None
    except library.NVMLError:
        pass  # the first reading reports it
    return Nvml(library, gpus)
