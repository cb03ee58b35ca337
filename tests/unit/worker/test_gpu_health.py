"""Which GPUs are given a job."""

from __future__ import annotations

import pytest

from worker.gpu.health import GpuReading, unhealthy

GIB = 2**30
WELL = GpuReading("0", used_bytes=GIB, total_bytes=24 * GIB)


@pytest.mark.parametrize(
    "reading",
    [
        pytest.param(WELL, id="a desktop's memory"),
        pytest.param(GpuReading("0", xids=(13, 31, 43, 45)), id="Xids that a program causes"),
        pytest.param(GpuReading("0"), id="a GPU that reports nothing"),
    ],
)
def test_a_healthy_gpu_is_given_jobs(reading: GpuReading) -> None:
    assert unhealthy([WELL, reading], idle_seconds=1e6, silent_seconds=5) == ""


@pytest.mark.parametrize(
    ("reading", "sentence"),
    [
        (GpuReading("1", error="GPU is lost"), "GPU 1 cannot be read (NVML: GPU is lost)"),
        (
            GpuReading("1", xids=(31, 79)),
            "GPU 1 reported Xid 79 (GPU has fallen off the bus); restart the worker "
            "once the GPU is healthy",
        ),
        (
            GpuReading("1", xids=(999,)),
            "GPU 1 reported Xid 999; restart the worker once the GPU is healthy",
        ),
        (GpuReading("1", needs_reset=True), "GPU 1 has bad memory and needs a reset"),
        (
            GpuReading("1", needs_reset=True, remap_failed=True),
            "GPU 1 has bad memory that could not be remapped",
        ),
        (
            GpuReading("1", used_bytes=12 * GIB, total_bytes=24 * GIB),
            "GPU 1 has 12.0 GiB of memory in use while this worker runs no job",
        ),
    ],
)
def test_a_gpu_that_fails_its_check_is_named_with_the_reason(
    reading: GpuReading, sentence: str
) -> None:
    assert unhealthy([WELL, reading], idle_seconds=60, silent_seconds=0) == sentence


def test_memory_counts_only_when_nothing_of_ours_has_run_for_a_while() -> None:
    held = [GpuReading("0", used_bytes=20 * GIB, total_bytes=24 * GIB)]
    assert unhealthy(held, idle_seconds=0, silent_seconds=0) == ""
    assert unhealthy(held, idle_seconds=9, silent_seconds=0) == ""
    assert unhealthy(held, idle_seconds=11, silent_seconds=0) != ""


def test_a_tenth_of_a_large_gpu_may_be_held_and_two_gib_of_a_small_one() -> None:
    for used, total, well in ((7, 80, True), (9, 80, False), (1.9, 8, True), (2.1, 8, False)):
        reading = GpuReading("0", used_bytes=int(used * GIB), total_bytes=total * GIB)
        assert (unhealthy([reading], idle_seconds=60, silent_seconds=0) == "") is well


def test_a_driver_that_does_not_answer_is_no_healthy_one() -> None:
    assert unhealthy([WELL], idle_seconds=0, silent_seconds=61) == (
        "the GPU driver (NVML) does not answer"
    )
