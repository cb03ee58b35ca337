"""Accelerate: `Accelerator(log_with=SpectrainTracker())`.

accelerator.init_trackers("training")
step = tracker.resume(accelerator, "states", total=1000)
while step < 1000:
    ...
    step += 1
    accelerator.log({"loss": loss.item()}, step=step)
    tracker.step(accelerator, step)
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker

from monitoring import preemption, step_counter
from monitoring.integrations.run_log import RunLog, leave, stop_requested
from monitoring.metrics.logger import MetricsLogger


class SpectrainTracker(GeneralTracker):
    """Logs what `accelerator.log` is given, and saves and ends when it is asked to stop.

    `log_dir`: where the metrics go, by default where the service looks for them. `keep`: how many
    states are kept.
    """

    name = "spectrain"
    requires_logging_directory = False

    def __init__(self, log_dir: str | Path | None = None, keep: int = 2) -> None:
        super().__init__()
        self._run = RunLog(log_dir)
        self._keep = keep
        self._states = Path()

    @property
    def tracker(self) -> MetricsLogger:
        """The logger of the run."""
        return self._run.logger

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        """Log a row; a step is needed, since a curve is over steps."""
        if step is None:
            raise ValueError("accelerator.log needs a step: a curve is over steps")
        self._run.log(step, values)

    def finish(self) -> None:
        """Write every row."""
        self._run.logger.close()

    def resume(self, accelerator: Any, states: str | Path, total: int | None = None) -> int:
        """Load the newest state in a directory, after `prepare`; return the steps that are done.

        `total` is the number of steps of the whole run.
        """
        preemption.install()
        self._states = Path(states)
        step = max(self._saved(), default=0)
        if step:
            accelerator.load_state(str(self._state(step)))
        if accelerator.is_main_process:
            self._run.begin(step, total)
        return step

    def save(self, accelerator: Any, step: int) -> None:
        """Save the state after a step, and remove the oldest ones."""
        draft = self._states / "draft"
        accelerator.save_state(str(draft))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            shutil.rmtree(self._state(step), ignore_errors=True)
            draft.rename(self._state(step))
            for old in sorted(self._saved())[: -self._keep]:
                shutil.rmtree(self._state(old))
        accelerator.wait_for_everyone()

    def step(self, accelerator: Any, step: int, every: int = 0) -> None:
        """Count a step; save if `every` so many steps are done; save and end if asked to stop."""
        if accelerator.is_main_process:
            step_counter.beat(step)
        stopping = stop_requested()
        if stopping or (every and step % every == 0):
            self.save(accelerator, step)
        if stopping:
            self.finish()
            leave()

    def _saved(self) -> list[int]:
        """The steps of which there is a state."""
        names = (path.name.removeprefix("step_") for path in self._states.glob("step_*"))
        return [int(name) for name in names if name.isdigit()]

    def _state(self, step: int) -> Path:
        return self._states / f"step_{step}"
