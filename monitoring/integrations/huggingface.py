"""Hugging Face Trainer: `Trainer(..., callbacks=[SpectrainCallback()])`.

    trainer.train(resume_from_checkpoint=latest_checkpoint(args.output_dir))

A resumed run has the curve of an undisturbed one: values that the Trainer averages over
`logging_steps` need `logging_steps=1` for that, since its average begins anew at a resume.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from monitoring import preemption, step_counter
from monitoring.integrations.run_log import RunLog, leave, stop_requested

_STATE = "trainer_state.json"  # the last file but the random states
# Of the last row: what the attempt took, which is not the run.
_OF_THE_ATTEMPT = "train_runtime"


class SpectrainCallback(TrainerCallback):
    """Counts steps, logs what the Trainer logs, and saves and ends when it is asked to stop.

    `log_dir`: where the metrics go, by default where the service looks for them.
    """

    def __init__(self, log_dir: str | Path | None = None) -> None:
        self._log = RunLog(log_dir)
        self._stopping = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Continue the metrics after the checkpoint."""
        preemption.install()
        if state.is_world_process_zero:
            self._log.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """Count the step; have a checkpoint saved if a stop was requested."""
        if state.is_world_process_zero:
            step_counter.beat(state.global_step)
        if stop_requested():
            self._stopping = control.should_save = control.should_training_stop = True
        return control

    def on_prediction_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Tell the service that an evaluation is alive."""
        if state.is_world_process_zero:
            step_counter.heartbeat()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any
    ) -> None:
        """Log what the Trainer logs."""
        if state.is_world_process_zero and logs and _OF_THE_ATTEMPT not in logs:
            self._log.log(state.global_step, logs)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """End the program if the checkpoint was saved for that."""
        if self._stopping:
            self._log.logger.close()
            leave()


def latest_checkpoint(output_dir: str | Path) -> str | None:
    """Return the newest whole checkpoint of a Trainer; None if there is none."""
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in Path(output_dir).glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdigit() and (path / _STATE).is_file()
    }
    return str(steps[max(steps)]) if steps else None
