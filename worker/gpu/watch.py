"""Checks a worker's GPUs regularly, so that it takes no job while one of them is unhealthy."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from jobs.model.workers import Gpu
from worker.gpu.health import GpuReading, fault_of, unhealthy

log = logging.getLogger(__name__)

_CHECK_SECONDS = 5.0


class GpuReader(Protocol):
    """Reads GPUs, as `worker.gpu.nvml.Nvml` does."""

    def read(self) -> Sequence[GpuReading]:
        """A reading of each GPU; may hang if a GPU hangs."""


class GpuWatch:
    """Reads the GPUs in a thread of its own, since a driver may hang; healthy without a reader.

    That thread calls `on_change` whenever the verdict changes; `clock` counts seconds.
    """

    def __init__(
        self,
        reader: GpuReader | None,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_change = on_change
        self._reader = reader
        self._clock = clock
        self._readings: Sequence[GpuReading] = ()
        self._idle_when_read = 0.0
        self._read_at = self._idle_since = clock()
        self._at_work = False
        self._checked = threading.Event()

    def start(self) -> None:
        """Starts checking; returns after the first check, or shortly if the driver hangs."""
        if self._reader is not None:
            threading.Thread(target=self._run, name="gpus", daemon=True).start()
            self._checked.wait(_CHECK_SECONDS)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Marks the time in which a job runs, and memory may be in use."""
        self._at_work = True
        try:
            yield
        finally:
            self._idle_since = self._clock()
            self._at_work = False

    def verdict(self) -> str:
        """Why the worker must not take a job, as a sentence; '' if it may."""
        silent = 0.0 if self._reader is None else self._clock() - self._read_at
        return unhealthy(self._readings, idle_seconds=self._idle_when_read, silent_seconds=silent)

    @property
    def readings(self) -> Sequence[GpuReading]:
        """The last reading of each GPU."""
        return self._readings

    def states(self, names: Sequence[str]) -> list[Gpu]:
        """What the GPUs of these names do, for the registry."""
        return [
            Gpu(
                name=name,
                used_bytes=reading.used_bytes if reading.total_bytes else None,
                total_bytes=reading.total_bytes or None,
                busy_percent=reading.busy_percent,
                celsius=reading.celsius,
                watts=reading.watts,
                fault=fault_of(reading, self._idle_when_read),
            )
            for name, reading in zip(names, self._readings, strict=False)
        ]

    def check(self) -> None:
        """Reads the GPUs once."""
        if self._reader is None:
            return
        before = self.verdict()
        idle = self._idle()
        readings = self._reader.read()
        # A job that ran at either end of the reading may account for the memory in use.
        self._idle_when_read = min(idle, self._idle())
        self._readings = readings
        self._read_at = self._clock()
        if self.verdict() != before:
            self.on_change()

    def _idle(self) -> float:
        return 0.0 if self._at_work else self._clock() - self._idle_since

    def _run(self) -> None:
        while True:
            try:
                self.check()
            except Exception:  # no fault of the driver may end the worker
                log.exception("cannot read the GPUs")
            self._checked.set()
            time.sleep(_CHECK_SECONDS)
