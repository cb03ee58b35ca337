"""A worker's checks of its GPUs, with a fake NVML."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from jobs.model.workers import Gpu
from worker.gpu.nvml import Nvml, open_nvml
from worker.gpu.watch import GpuWatch

GIB = 2**30


class FakeNvml:
    """Two GPUs as NVML reports them: a test changes the answers, or makes a call raise."""

    nvmlMemory_v2 = pynvml.nvmlMemory_v2  # noqa: N815 - NVML's names
    nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError  # noqa: N815
    NVML_FEATURE_ENABLED = pynvml.NVML_FEATURE_ENABLED
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported
    NVMLError_FunctionNotFound = pynvml.NVMLError_FunctionNotFound
    NVMLError_Timeout = pynvml.NVMLError_Timeout

    def __init__(self) -> None:
        self.raises: dict[str, Exception] = {}
        self.used = 0
        self.pending = 0
        self.xids: dict[int, list[int]] = {0: [], 1: []}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            if name in self.raises:
                raise self.raises[name]
            return getattr(self, f"_{name.removeprefix('nvml')}")(*arguments, **options)

        if not name.startswith("nvml"):
            raise AttributeError(name)
        return call

    def _Init(self) -> None: ...  # noqa: N802

    def _DeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def _DeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def _DeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}a3f"

    def _DeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"NVIDIA Test {handle}"

    def _DeviceGetMemoryInfo(self, handle: int, version: int | None = None) -> Any:  # noqa: N802
        return SimpleNamespace(used=self.used, total=24 * GIB)

    def _EventSetCreate(self) -> dict[str, int]:  # noqa: N802
        return {}

    def _DeviceRegisterEvents(self, handle: int, kind: int, events: dict[str, int]) -> None:  # noqa: N802
        assert kind == self.nvmlEventTypeXidCriticalError
        events["of"] = handle

    def _EventSetWait_v2(self, events: dict[str, int], timeout: int) -> Any:  # noqa: N802
        assert timeout == 0, "nobody waits for an error"
        if not self.xids[events["of"]]:
            raise pynvml.NVMLError_Timeout
        return SimpleNamespace(eventData=self.xids[events["of"]].pop())

    def _DeviceGetRetiredPagesPendingStatus(self, handle: int) -> int:  # noqa: N802
        raise pynvml.NVMLError_NotSupported

    def _DeviceGetRemappedRows(self, handle: int) -> tuple[int, int, int, int]:  # noqa: N802
        return (0, 0, self.pending, 0)

    def _DeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=97 - handle, memory=40)

    def _DeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        assert sensor == self.NVML_TEMPERATURE_GPU
        return 61 + handle

    def _DeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 350_500


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def nvml() -> FakeNvml:
    return FakeNvml()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def watch(nvml: FakeNvml, clock: Clock) -> GpuWatch:
    return GpuWatch(Nvml(nvml, ["0", "GPU-1a"]), clock=clock)


def test_gpus_are_found_by_index_and_by_the_beginning_of_their_uuid(nvml: FakeNvml) -> None:
    assert Nvml(nvml, ["GPU-1a", "0"]).names() == ("NVIDIA Test 1", "NVIDIA Test 0")


def test_an_xid_is_remembered_for_the_gpu_that_had_it(watch: GpuWatch, nvml: FakeNvml) -> None:
    watch.check()
    assert watch.verdict() == ""
    nvml.xids[1] = [79, 31, 31]
    for _ in range(2):
        watch.check()
        assert watch.verdict().startswith("GPU-1a reported Xid 79")


def test_an_nvml_error_is_one_for_as_long_as_it_lasts(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.raises["nvmlDeviceGetMemoryInfo"] = pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
    watch.check()
    assert "GPU 0 cannot be read (NVML: GPU is lost)" in watch.verdict()
    nvml.raises.clear()
    watch.check()
    assert watch.verdict() == ""


@pytest.mark.parametrize(
    "call",
    [
        "nvmlDeviceGetMemoryInfo", "nvmlEventSetCreate", "nvmlDeviceRegisterEvents",
        "nvmlDeviceGetRemappedRows", "nvmlDeviceGetRetiredPagesPendingStatus", "nvmlDeviceGetName",
        "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetTemperature", "nvmlDeviceGetPowerUsage",
    ],
)  # fmt: skip
def test_what_a_gpu_cannot_report_is_no_fault(watch: GpuWatch, nvml: FakeNvml, call: str) -> None:
    nvml.raises[call] = pynvml.NVMLError_NotSupported()
    watch.check()
    assert watch.verdict() == ""


def test_utilisation_temperature_and_power_are_read(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.raises["nvmlDeviceGetPowerUsage"] = pynvml.NVMLError_NotSupported()
    watch.check()
    first, second = watch.readings
    assert (first.busy_percent, first.celsius, first.watts) == (97, 61, None)
    assert (second.busy_percent, second.celsius) == (96, 62)
    nvml.raises.clear()
    watch.check()
    assert watch.readings[0].watts == 350.5
    nvml.xids[1] = [79]
    nvml.used = GIB
    watch.check()
    well, bad = watch.states(["NVIDIA A", "NVIDIA B"])
    assert well == Gpu(name="NVIDIA A", used_bytes=GIB, total_bytes=24 * GIB, busy_percent=97,
                       celsius=61, watts=350.5)  # fmt: skip
    assert (bad.name, bad.fault[:22]) == ("NVIDIA B", "GPU-1a reported Xid 79")


def test_pages_that_wait_to_be_remapped_stop_further_jobs(watch: GpuWatch, nvml: FakeNvml) -> None:
    nvml.pending = 1
    watch.check()
    assert "needs a reset" in watch.verdict()


def test_memory_of_a_job_and_just_after_it_is_no_fault_and_what_stays_is_one(
    watch: GpuWatch, nvml: FakeNvml, clock: Clock
) -> None:
    nvml.used = 20 * GIB
    clock.now += 60
    with watch.at_work():
        watch.check()
        assert watch.verdict() == ""
    clock.now += 5
    watch.check()
    assert watch.verdict() == ""
    clock.now += 10
    watch.check()
    assert "20.0 GiB of memory in use" in watch.verdict()


def test_a_driver_that_hangs_is_noticed_from_outside(watch: GpuWatch, clock: Clock) -> None:
    watch.check()
    clock.now += 61
    assert "does not answer" in watch.verdict()
    watch.check()
    assert watch.verdict() == ""


def test_a_bad_gpu_is_known_before_a_worker_takes_its_first_job(
    watch: GpuWatch, nvml: FakeNvml
) -> None:
    nvml.pending = 1
    watch.start()
    assert "needs a reset" in watch.verdict()


def test_each_new_verdict_is_passed_on_once(watch: GpuWatch, nvml: FakeNvml) -> None:
    verdicts: list[str] = []
    watch.on_change = lambda: verdicts.append(watch.verdict())
    watch.check()
    nvml.pending = 1
    watch.check()
    watch.check()
    nvml.pending = 0
    watch.check()
    assert verdicts == [
        "GPU 0 has bad memory and needs a reset; GPU-1a has bad memory and needs a reset", "",
    ]  # fmt: skip


def test_a_worker_without_gpus_is_always_well(clock: Clock) -> None:
    assert open_nvml(()) is None
    watch = GpuWatch(None, clock=clock)
    watch.start()
    clock.now += 1e6
    watch.check()
    assert watch.verdict() == ""
