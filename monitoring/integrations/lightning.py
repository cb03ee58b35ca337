"""Lightning: `Trainer(logger=SpectrainLogger(), callbacks=[SpectrainCallback()])`.

    trainer.fit(module, loader, ckpt_path="last")

Lightning saves no random states: the callback does. In the middle of an epoch it goes on with the
batch that a loader with `state_dict` and `load_state_dict` gives; other loaders begin again.
"""

from __future__ import annotations

import math
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from monitoring import preemption, step_counter
from monitoring.checkpoints.random_state import capture_rng_state, restore_rng_state
from monitoring.integrations.run_log import RunLog, leave, stop_requested


class SpectrainLogger(Logger):
    """Logs what `self.log` is given; checkpoints go to `checkpoints` in the working directory.

    `log_dir`: where the metrics go, by default where the service looks for them.
    """

    save_dir, name, version = ".", "", ""

    def __init__(self, log_dir: str | Path | None = None) -> None:
        super().__init__()
        self.run = RunLog(log_dir)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log a row; Lightning counts steps from 0."""
        self.run.log(step or 0, metrics)

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Do nothing: the service keeps the job with its command."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write every row."""
        self.run.logger.close()


class SpectrainCallback(Callback):
    """Counts steps, keeps random states, and saves and ends when it is asked to stop."""

    def __init__(self) -> None:
        self._random: dict[str, Any] | None = None
        self._stopping = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Continue the metrics after the checkpoint."""
        preemption.install()  # in place of Lightning's handler, which ends without a checkpoint
        total = trainer.estimated_stepping_batches
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, SpectrainLogger):
                logger.run.begin(trainer.global_step - 1, total if math.isfinite(total) else None)

    def on_train_batch_start(self, *_: Any) -> None:
        """Restore random states after a resume; end if a checkpoint was saved for that."""
        if self._stopping:  # what the last step logged is written by now
            leave()
        if self._random is not None:
            restore_rng_state(self._random)
            self._random = None

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count the step; save if asked to stop."""
        if trainer.is_global_zero:
            step_counter.beat(trainer.global_step - 1)
        if self._stopping or not stop_requested():
            return
        folder = getattr(trainer.checkpoint_callback, "dirpath", None) or "checkpoints"
        draft, last = (os.path.join(folder, name) for name in ("draft", "last.ckpt"))  # noqa: PTH118
        trainer.save_checkpoint(draft)
        if trainer.is_global_zero:
            Path(draft).replace(last)  # which may be a link to another checkpoint
        self._stopping = True

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        """Tell the service that a validation is alive."""
        if trainer.is_global_zero:
            step_counter.heartbeat()

    def state_dict(self) -> dict[str, Any]:
        """The random states, for the checkpoint."""
        return {"random": capture_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the random states before the next step."""
        self._random = state_dict["random"]
