"""Watches a worker's GPUs: what fails its check is given no further job."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from worker.gpu.health import GpuReading, unhealthy

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0


class GpuReader(Protocol):
    """What tells of the GPUs, such as `worker.gpu.nvml.Nvml`."""

    def read(self) -> Sequence[GpuReading]:
        """A reading of each GPU; may hang with a GPU that does."""


class GpuWatch:
    """Reads the GPUs in a thread of its own, for a driver may hang; without a reader, all is well.

    `on_change` is called from that thread when the verdict is another one; `clock` counts seconds.
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
        self._looked = threading.Event()

    def start(self) -> None:
        """Starts watching; returns after the first look, or soon where the driver hangs."""
        if self._reader is not None:
            threading.Thread(target=self._run, name="gpus", daemon=True).start()
            self._looked.wait(_LOOK_SECONDS)

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """While a job runs here, its memory is in use."""
        self._at_work = True
        try:
            yield
        finally:
            self._idle_since = self._clock()
            self._at_work = False

    def verdict(self) -> str:
        """Why the worker must not take a job, in a sentence; '' while it may."""
        silent = 0.0 if self._reader is None else self._clock() - self._read_at
        return unhealthy(self._readings, idle_seconds=self._idle_when_read, silent_seconds=silent)

    def look(self) -> None:
        """Reads the GPUs once."""
        if self._reader is None:
            return
        before = self.verdict()
        idle = self._idle()
        readings = self._reader.read()
        # What ran at either end of the reading may be what was seen in the memory.
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
                self.look()
            except Exception:  # whatever the driver does, the worker goes on and says so
                log.exception("the GPUs cannot be read")
            self._looked.set()
            time.sleep(_LOOK_SECONDS)
