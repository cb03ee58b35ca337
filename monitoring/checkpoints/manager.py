"""Checkpoints: the complete state, saved atomically and without holding the training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import nn

from monitoring import preemption, step_counter
from monitoring.checkpoints.copies.overlap import WeightsChanged
from monitoring.checkpoints.copies.snapshot import NoMemoryError, Snapshot
from monitoring.checkpoints.directory import CheckpointDirectory
from monitoring.checkpoints.file import ChecksummedFile
from monitoring.checkpoints.loading import Loader
from monitoring.checkpoints.loss_history import Losses, LossHistory
from monitoring.checkpoints.plain import on_cpu, plain
from monitoring.checkpoints.random_state import capture_rng_state
from monitoring.checkpoints.wrappers import plain_state
from monitoring.checkpoints.writer import Save
from monitoring.ids import get_git_hash
from monitoring.paths import RunPaths

logger = logging.getLogger(__name__)

_LARGE = 32 << 20  # bytes; larger checkpoints are written directly


class Stateful(Protocol):
    """An optimizer, a scheduler or a scaler: an object with a `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """Return the whole state."""
        ...


class CheckpointManager:
    """Saves the checkpoints of a run, keeps the newest ones and loads the latest good one.

    A checkpoint is a dict with `step`, `model_state_dict`, `optimizer_state_dict`, `loss_history`
    (a list), `config`, `timestamp` (UTC, ISO 8601), `git_hash` and `rng_state`, and, if given,
    `scheduler_state_dict`, `scaler_state_dict` and `extra`. Plain `torch.load` reads it as well.
    The state of a wrapped model (DataParallel, DistributedDataParallel, torch.compile) is that of
    the plain model.

    Args:
        experiment_dir: root directory of the run.
        save_interval: steps between checkpoints; at least 1, else ValueError.
        keep_last_n: how many of the newest checkpoints to keep, at least 1; the one marked best
            is kept in addition.
        async_save: return from `save_checkpoint` before the file exists. Large weights are copied
            while training goes on, until the optimizer's next step, and a thread writes the file.
        when_busy: what an asynchronous save does while the previous one is being written: "wait"
            for it, or "skip" itself with a warning.
        save_seconds: a checkpoint is due too when the last one is this many seconds old.
        stall_seconds: give up a save, with a warning, if the storage takes no byte for this long.
        allowed_types: classes of your own that checkpoints of this run may contain.
    """

    def __init__(
        self,
        experiment_dir: str | Path,
        save_interval: int = 1000,
        keep_last_n: int = 3,
        *,
        async_save: bool = False,
        when_busy: Literal["wait", "skip"] = "wait",
        save_seconds: float | None = None,
        stall_seconds: float = 120.0,
        allowed_types: Sequence[type] = (),
    ) -> None:
        if save_interval < 1 or keep_last_n < 1:
            raise ValueError(
                f"save_interval and keep_last_n must be at least 1, "
                f"not {save_interval} and {keep_last_n}"
            )
        if when_busy not in ("wait", "skip"):
            raise ValueError(f'when_busy must be "wait" or "skip", not {when_busy!r}')
        self.experiment_dir = Path(experiment_dir)
        self.paths = RunPaths(self.experiment_dir)
        self.checkpoint_dir = self.paths.checkpoints
        self.latest_symlink = self.paths.latest_checkpoint
        self.save_interval = save_interval
        self.keep_last_n = keep_last_n
        self._async = async_save
        self._when_busy = when_busy
        self._save_seconds = save_seconds
        self._stall_seconds = stall_seconds
        self._allowed = tuple(allowed_types)
        self._snapshot = Snapshot(self._allowed)
        self._directory = CheckpointDirectory(self.paths, keep_last_n)
        self._loader = Loader(self._directory, self._allowed)
        self._save: Save | None = None
        self._losses = LossHistory()
        self._void = False  # whether the last save has to be repeated
        self._last_save = time.monotonic()
        self._git_hash = get_git_hash()
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("Cannot create %s: %s", self.checkpoint_dir, error)

    # --- saving ---------------------------------------------------------------------------

    def should_checkpoint(self, step: int) -> bool:
        """Count the step as done, and return whether a checkpoint is due after it.

        One is due at multiples of `save_interval`, after `save_seconds`, and when the last save
        has to be repeated; never at step 0.
        """
        step_counter.beat(step)
        if step <= 0:
            return False
        if step % self.save_interval == 0 or self._is_void():
            return True
        return (
            self._save_seconds is not None
            and time.monotonic() - self._last_save >= self._save_seconds
        )

    def save_checkpoint(
        self,
        step: int,
        model: nn.Module,
        optimizer: Stateful,
        loss_history: Sequence[float],
        config: Mapping[str, Any] | Any,
        *,
        scheduler: Stateful | None = None,
        scaler: Stateful | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str | None:
        """Save the state after `step`; return the path, or None if nothing was saved.

        The file exists when this returns. With `async_save` it exists when `wait()` returns or the
        next save begins; after a stop request (`monitoring.preemption`) every save waits. A storage
        that fails is a warning, not an exception, and None is returned. Any other error in the
        background is raised by the next call.

        Raises TypeError for state that a safe load would refuse, and ValueError for a step below 0.
        """
        step = int(step)
        if step < 0:
            raise ValueError(f"a checkpoint's step must be 0 or more, not {step}")
        if not self._finish_previous():
            return None
        begun = time.monotonic()
        state: dict[str, Any] = {
            "step": step,
            "model_state_dict": plain_state(model),
            "optimizer_state_dict": optimizer.state_dict(),
            "loss_history": self._losses.pack(loss_history),
            "config": config,
            "timestamp": datetime.now(UTC).isoformat(),
            "git_hash": self._git_hash,
            "rng_state": capture_rng_state(),
        }
        if scheduler is not None:
            state["scheduler_state_dict"] = scheduler.state_dict()
        if scaler is not None:
            state["scaler_state_dict"] = scaler.state_dict()
        if extra is not None:
            state["extra"] = dict(extra)

        path = self.paths.checkpoint(step)

        def commit_it(draft: Path, file: ChecksummedFile) -> None:
            self._directory.commit(path, draft, file, round(time.monotonic() - begun, 3))

        self._void = False
        beside = self._async and self._copy(path, state, optimizer, commit_it)
        if not beside:
            packed = _packed(state)
            live = plain({**state, **dict.fromkeys(packed)}, on_cpu, self._allowed) | packed
            self._save = Save(path, live, _nothing, commit_it, reads_live=True)
        assert self._save is not None  # noqa: S101
        save = self._save
        try:
            save.start()
            self._last_save = time.monotonic()
            if beside and not preemption.was_requested():
                return str(path)
            return str(path) if self.wait() else None
        except BaseException:  # Ctrl-C: a save that reads live weights must not commit them later
            save.abandoned = save.reads_live
            raise

    def wait(self) -> bool:
        """Wait for the save in progress; return whether it was committed, True without a save.

        Raises an error of the background save that is not the storage's.
        """
        save = self._save
        if save is None:
            return True
        if not save.is_ours:  # it belongs to the process that this one was forked from
            self._save, self._snapshot = None, Snapshot(self._allowed)
            return True
        if not save.wait(self._stall_seconds):
            save.abandoned = save.reads_live
            self._warn_of(save, f"the storage accepted no byte for {self._stall_seconds:g} s")
            return False
        self._save = None
        if isinstance(save.error, WeightsChanged):
            self._snapshot.overlap = False
            self._void = True
            self._warn_of(
                save,
                "something other than an optimizer step changed a weight during the copy; the "
                "save is repeated, and later saves hold training until the state is copied",
            )
            return False
        if isinstance(save.error, OSError):
            self._warn_of(save, str(save.error))
            return False
        if save.error is not None:
            raise save.error
        return not save.abandoned

    def close(self) -> None:
        """Wait for the save in progress and free the memory of the copies."""
        self.wait()
        if self._save is None:
            self._snapshot.release()

    def mark_best(self, step: int) -> None:
        """Point `checkpoint_best.pt` at a step's checkpoint, and keep that until another is marked.

        It may still be being saved. If there is none, a warning is logged and nothing changes.
        """
        saving = self._save.path if self._save is not None and not self._save.done else None
        self._directory.mark_best(step, saving=saving)

    def _finish_previous(self) -> bool:
        """Whether the next save may begin: only one is in progress at a time."""
        save = self._save
        if save is not None and not save.done:
            if save.stalled:  # the warning was logged when it was noticed
                return False
            if self._when_busy == "skip" and not preemption.was_requested():
                if not save.in_the_way:
                    logger.warning("Checkpoints skipped while %s is being written", save.path)
                save.in_the_way = True
                return False
        self.wait()
        return self._save is None

    def _is_void(self) -> bool:
        """Whether the last save was void and has to be repeated."""
        save = self._save
        if save is not None and save.done and isinstance(save.error, WeightsChanged):
            self.wait()
        return self._void

    def _copy(
        self,
        path: Path,
        state: dict[str, Any],
        optimizer: Stateful,
        commit_it: Callable[[Path, ChecksummedFile], None],
    ) -> bool:
        """Prepare a save of a copy of the state; False if there is no memory for one."""
        stepped = _stepped(optimizer, state["optimizer_state_dict"])
        packed = _packed(state)
        try:
            copy = self._snapshot.take({**state, **dict.fromkeys(packed)}, stepped) | packed
        except (MemoryError, NoMemoryError) as error:
            self._snapshot.release()
            logger.warning("Training waits for %s: there is no memory for a copy (%s)", path, error)
            return False
        # Through the page cache if the loop ends here: the file is read again at once.
        direct = self._snapshot.nbytes >= _LARGE and not preemption.was_requested()
        self._save = Save(path, copy, self._snapshot.wait, commit_it, direct=direct)
        return True

    def _warn_of(self, save: Save, cause: str) -> None:
        logger.warning("Checkpoint %s skipped: %s; training goes on", save.path, cause)

    # --- loading --------------------------------------------------------------------------

    def load_latest_checkpoint(
        self, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """Load the newest checkpoint of which every byte is as it was written; None without one.

        A file that another program wrote, without a commit record, is a checkpoint if it is whole:
        it is loaded, and adopted by writing its record. A file that differs from its record, or
        cannot be read, is renamed to `….corrupt` with a warning, and the one before is loaded; one
        without a record only if it has not changed for an hour, for it may be half written.

        Raises pickle.UnpicklingError for a file with classes that a safe load refuses, and leaves
        it as it is: name classes that you trust in `allowed_types`.
        """
        self.wait()
        return self._loader.load_newest(map_location)

    def load_checkpoint(
        self, step: int, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """Load the checkpoint of a step, as `load_latest_checkpoint` does; None without a good one.

        Raises pickle.UnpicklingError.
        """
        self.wait()
        return self._loader.load(self.paths.checkpoint(step), map_location)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """List the checkpoints by step: dicts with `step`, `path` (a string), `size_mb` (MiB) and
        `modified` (local time, ISO 8601). Files of other programs are listed if they look whole.
        """
        return [
            {
                "step": found.step,
                "path": str(found.path),
                "size_mb": found.size / 2**20,
                "modified": datetime.fromtimestamp(found.time).isoformat(" ", "seconds"),
            }
            for found in self._directory.present()
        ]


def _packed(state: Mapping[str, Any]) -> dict[str, Losses]:
    """The items of a state that are copies already."""
    return {name: value for name, value in state.items() if isinstance(value, Losses)}


def _nothing() -> None:
    """Wait for nothing: a state that was not copied is complete."""


def _stepped(optimizer: Stateful, its_state: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that only the optimizer's step changes: its weights and their moments."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return []  # its steps call no hook
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = [
        value
        for kept in its_state.get("state", {}).values()
        if isinstance(kept, dict)
        for value in kept.values()
        if isinstance(value, torch.Tensor)
    ]
    # Tensors of inference mode have no version counter, so a change would go unnoticed.
    return [tensor for tensor in (*weights, *moments) if not tensor.is_inference()]
