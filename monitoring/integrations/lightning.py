"""Lightning: `Trainer(logger=SpectrainLogger(), callbacks=[SpectrainCallback()])`.

For `fit(..., ckpt_path="last")`. Lightning saves no random states: the callback does. Within an
epoch, a loader with `state_dict` and `load_state_dict` goes on with its batch; others begin again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_only

from monitoring import preemption, step_counter
from monitoring.checkpoints.random_state import capture_rng_state, restore_rng_state
from monitoring.integrations.run_log import RunLog, leave, stop_requested


class SpectrainLogger(pl.loggers.Logger):
    """Logs to `log_dir`, by default where the service looks; checkpoints go to `checkpoints`."""

    save_dir, name, version = ".", "", ""

    def __init__(self, log_dir: str | Path | None = None) -> None:
        super().__init__()
        self.run = RunLog(log_dir)

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log a row; Lightning counts steps from 0."""
        self.run.log(step or 0, metrics)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the service keeps the job with its command."""

    def finalize(self, status: str) -> None:
        """Write every row."""
        self.run.logger.close()


class SpectrainCallback(pl.Callback):
    """Counts steps, keeps random states, and saves and ends when it is asked to stop."""

    _random: dict[str, Any] | None = None
    _stopping = _is_between = False
    _step = -1

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Continue the metrics after the checkpoint."""
        preemption.install()  # in place of Lightning's handler, which ends without a checkpoint
        for log in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(log, SpectrainLogger):
                log.run.begin(trainer.global_step - 1, trainer.estimated_stepping_batches)

    def on_train_batch_start(self, *_: Any) -> None:
        """Restore random states after a resume; end if a checkpoint was saved for that."""
        if self._stopping and not self._is_between:  # the last step is logged by now
            leave()
        state, self._random = self._random, None
        if state is not None:
            restore_rng_state(state)

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Count the step; save if asked to stop."""
        if trainer.global_step == self._step:
            return  # gradients are being accumulated
        self._step = trainer.global_step
        if trainer.is_global_zero:
            step_counter.beat(self._step - 1)
        self._stopping = self._stopping or stop_requested()
        if self._stopping:
            folder = Path(getattr(trainer.checkpoint_callback, "dirpath", None) or "checkpoints")
            trainer.save_checkpoint(folder / "draft")
            if trainer.is_global_zero:  # by this name `ckpt_path="last"` finds it, if the newest
                (folder / "draft").replace(folder / "last-stopped.ckpt")
            self._is_between = False

    def on_train_epoch_start(self, *_: Any) -> None:
        """Go on with the random states of now: the order of this epoch is drawn from them."""
        self._random = None
        self.on_validation_start()

    def on_validation_start(self, *_: Any) -> None:
        """Make one more step: Lightning would go on from the last one without this validation."""
        self._is_between = True

    def on_validation_batch_end(self, *_: Any) -> None:
        """Tell the service that a validation is alive."""
        step_counter.heartbeat()

    def state_dict(self) -> dict[str, Any]:
        """The random states, for the checkpoint."""
        return {"random": capture_rng_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the random states, and again before a step in the middle of an epoch."""
        self._random = state_dict["random"]
        restore_rng_state(self._random)
