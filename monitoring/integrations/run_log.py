"""What the integrations share: the run's metrics, and a stop that all processes agree on."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import distributed

from monitoring import preemption, step_counter
from monitoring.json_values import plain_number
from monitoring.metrics.logger import MetricsLogger
from monitoring.metrics.rows import RESERVED

_STOPPED = 128 + 15  # as a program that SIGTERM ended


class RunLog:
    """The metrics of a run: in `log_dir`, by default in `logs` of the service's run directory.

    Without a service that is `logs` in the working directory.
    """

    def __init__(self, log_dir: str | Path | None = None) -> None:
        run = Path(os.environ.get("SPECTRAIN_RUN_DIR", "."))
        self.logger = MetricsLogger(run / "logs" if log_dir is None else log_dir, log_interval=1)

    def begin(self, step: int, total: float | None = None) -> None:
        """Begin after `step`, the last one that is done: later rows are moved aside.

        `total` is the number of steps of the whole run. Raises OSError.
        """
        self.logger.rewind(step)
        if total is not None and 0 < total < math.inf:
            step_counter.expect(int(total))

    def log(self, step: int, values: Mapping[str, Any]) -> None:
        """Log the numbers among values at a step, and count it."""
        plain = {str(name): plain_number(value) for name, value in values.items()}
        numbers = {
            name: value
            for name, value in plain.items()
            if isinstance(value, int | float) and name not in RESERVED
        }
        if numbers:
            self.logger.log_metrics(step, numbers)


def stop_requested() -> bool:
    """Return whether any process of the training was asked to stop; each has to call it.

    Processes get the signal one after the other, and all have to stop at the same step.
    """
    asked = preemption.stop_requested()
    if not distributed.is_available() or not distributed.is_initialized():
        return asked
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    flag = torch.tensor(int(asked), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag.item())


def leave() -> NoReturn:
    """End the program, whose checkpoint is saved, as one that was asked to stop."""
    if distributed.is_available() and distributed.is_initialized():
        # Threads of gloo that are left to the end of the interpreter abort it now and then.
        with contextlib.suppress(RuntimeError):
            distributed.destroy_process_group()
    sys.exit(_STOPPED)
