"""Checkpoints: complete state, there whole or not at all, and no wait for the training loop."""

from __future__ import annotations

import logging
import os
import pickle
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import nn

from monitoring import commit, heartbeat, preemption
from monitoring.checksummed_file import ChecksummedFile
from monitoring.commit import CheckpointCorrupt, CommitRecord
from monitoring.files import TEMPORARY, link_atomically
from monitoring.ids import get_git_hash
from monitoring.overlap import WeightsChanged
from monitoring.paths import RunPaths, step_of
from monitoring.plain import on_cpu, plain
from monitoring.random_state import capture_rng_state
from monitoring.saving import Save, writer
from monitoring.snapshot import Snapshot
from monitoring.wrappers import plain_state

logger = logging.getLogger(__name__)

_LARGE = 32 << 20  # bytes from which a checkpoint is written directly

# What numpy arrays inside a checkpoint need; a safe load refuses every other foreign name.
_NUMPY_NAMES: list[Any] = [
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in np.typecodes["All"] if code != "O"},
]


class Stateful(Protocol):
    """An optimizer, a schedule or a scaler: whatever has a `state_dict`."""

    def state_dict(self) -> dict[str, Any]:
        """Its whole state."""
        ...


class CheckpointManager:
    """Saves checkpoints of a run, keeps the newest ones and loads the latest good one.

    A checkpoint is a dict with `step`, `model_state_dict`, `optimizer_state_dict`,
    `loss_history`, `config`, `timestamp`, `git_hash` and `rng_state`, and where given
    `scheduler_state_dict`, `scaler_state_dict` and `extra`.

    Args:
        experiment_dir: root directory of the run.
        save_interval: steps between checkpoints.
        keep_last_n: how many of the newest checkpoints to keep; the one marked best stays too.
        async_save: hand the loop on at once: large weights are copied beside the passes up to
            the optimizer's next step, and everything is written in a thread.
        when_busy: what an asynchronous save does while the one before it is still being
            written: "wait" for it, or "skip" itself with a warning.
        save_seconds: have `should_checkpoint` say yes also when the last save is so long ago.
        stall_seconds: a storage that takes no byte for so long is given up on for this save.
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
        self.paths = RunPaths(Path(experiment_dir))
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
        self._save: Save | None = None
        self._last_save = time.monotonic()
        self._tidied = False
        self._git_hash = get_git_hash()
        self._attempt = int(os.environ.get("SPECTRAIN_ATTEMPT") or 0)
        try:
            self.checkpoint_dir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            logger.warning("Cannot make %s: %s", self.checkpoint_dir, error)

    # --- saving ---------------------------------------------------------------------------

    def should_checkpoint(self, step: int) -> bool:
        """Whether a checkpoint is due after this step; never at step 0."""
        heartbeat.beat(step)
        if step <= 0:
            return False
        if step % self.save_interval == 0:
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
    ) -> Path | None:
        """Save the state after `step`; the path, or None when the storage did not take it.

        The file exists when this returns, but for an asynchronous save, which is done when
        `wait()` returns or the next save begins. A stop request (`monitoring.preemption`)
        makes every save wait. A storage that fails is a warning, not an exception; an error of
        another kind in the background is raised by the next call.

        Raises TypeError for state that a safe load would refuse.
        """
        if not self._finish_previous():
            return None
        begun = time.monotonic()
        state: dict[str, Any] = {
            "step": int(step),
            "model_state_dict": plain_state(model),
            "optimizer_state_dict": optimizer.state_dict(),
            "loss_history": list(loss_history),
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
        commit_it = partial(self._commit, path, step, begun)
        if self._async:
            copy = self._snapshot.take(state, _stepped(optimizer, state["optimizer_state_dict"]))
            # Through the kernel's memory when the loop ends here: it is quicker to read again.
            direct = self._snapshot.nbytes >= _LARGE and not preemption.stop_requested()
            self._save = Save(path, copy, self._snapshot.wait, commit_it, direct=direct)
        else:
            self._save = Save(path, plain(state, on_cpu, self._allowed), _nothing, commit_it)
        writer.submit(self._save)
        self._last_save = time.monotonic()
        if self._async and not preemption.stop_requested():
            return path
        return path if self.wait() else None

    def wait(self) -> bool:
        """Finish the save under way; whether it was committed (True also when there was none)."""
        save = self._save
        if save is None:
            return True
        if not save.wait(self._stall_seconds):
            # A synchronous save reads the live weights: it must not commit them later.
            save.abandoned = not self._async
            logger.warning(
                "Checkpoint %s skipped: the storage took no byte for %g s; training goes on",
                save.path,
                self._stall_seconds,
            )
            return False
        self._save = None
        if isinstance(save.error, WeightsChanged):
            self._snapshot.overlap = False
            logger.warning(
                "Checkpoint %s skipped: something other than an optimizer's step changed a weight "
                "before the next one; from now on the loop is held until the state is copied",
                save.path,
            )
            return False
        if isinstance(save.error, OSError):
            logger.warning("Checkpoint %s skipped: %s; training goes on", save.path, save.error)
            return False
        if save.error is not None:
            raise save.error
        return not save.abandoned

    def close(self) -> None:
        """Finish the save under way and give the memory for copies back."""
        if self.wait():
            self._snapshot.release()

    def mark_best(self, step: int) -> None:
        """Keep the checkpoint of this step until another is marked. Raises OSError."""
        link_atomically(self.paths.best_checkpoint, self.paths.checkpoint(step).name)

    def _finish_previous(self) -> bool:
        """Whether the next save may begin: at most one is under way."""
        save = self._save
        if save is not None and not save.done:
            if save.stalled:  # said once, when it was noticed
                return False
            if self._when_busy == "skip" and not preemption.stop_requested():
                logger.warning("Checkpoint skipped: %s is still being written", save.path)
                return False
        self.wait()
        return self._save is None

    def _commit(
        self, path: Path, step: int, begun: float, draft: Path, file: ChecksummedFile
    ) -> None:
        """Publish a synced draft, point `latest` at it and retire old checkpoints."""
        known = commit.committed(self.checkpoint_dir)
        newest = max((record.time for record, _ in known), default=0.0)
        # Later than all before it, whatever the clock of this machine says.
        moment = max(time.time(), newest + 1e-3)
        seconds = round(time.monotonic() - begun, 3)
        record = CommitRecord(step, file.size, file.checksum, self._attempt, moment, seconds)
        commit.publish(draft, path, record)
        link_atomically(self.latest_symlink, path.name)
        self._retire()

    def _retire(self) -> None:
        best = _target(self.paths.best_checkpoint)
        newest_first = sorted(
            commit.committed(self.checkpoint_dir), key=lambda item: item[0].time, reverse=True
        )
        for _, path in newest_first[self.keep_last_n :]:
            if path.name != best:
                commit.discard(path)
        if not self._tidied:  # what a killed predecessor left
            for left in self.checkpoint_dir.glob(f".*{TEMPORARY}"):
                left.unlink(missing_ok=True)
            self._tidied = True

    # --- loading --------------------------------------------------------------------------

    def load_latest_checkpoint(
        self, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """The newest checkpoint whose every byte is as it was written; None where there is none.

        Damaged ones are renamed to `….corrupt`, with a warning, and the one before is taken.
        Raises pickle.UnpicklingError for one that holds more than a safe load allows.
        """
        self.wait()
        for path in self._newest_first():
            if (checkpoint := self._load(path, map_location)) is not None:
                return checkpoint
        return None

    def load_checkpoint(
        self, step: int, map_location: str | torch.device = "cpu"
    ) -> dict[str, Any] | None:
        """The checkpoint of a step; None where there is no good one."""
        self.wait()
        return self._load(self.paths.checkpoint(step), map_location)

    def list_checkpoints(self) -> list[dict[str, Any]]:
        """The committed checkpoints by step: `step`, `path`, `size_mb` (MiB), `modified`."""
        return [
            {
                "step": record.step,
                "path": path,
                "size_mb": record.size / 2**20,
                "modified": datetime.fromtimestamp(record.time).isoformat(" ", "seconds"),
            }
            for record, path in commit.committed(self.checkpoint_dir)
        ]

    def _newest_first(self) -> Iterator[Path]:
        """Every checkpoint file, those without a readable record first: they may be newest."""

        def age(path: Path) -> float:
            try:
                return -commit.read(path).time
            except (CheckpointCorrupt, OSError):
                return -float("inf")

        files = self.checkpoint_dir.glob("checkpoint_step_*.pt")
        yield from sorted((path for path in files if step_of(path) is not None), key=age)

    def _load(self, path: Path, map_location: str | torch.device) -> dict[str, Any] | None:
        try:
            commit.verify(path)
            with torch.serialization.safe_globals([*_NUMPY_NAMES, *self._allowed]):
                checkpoint = torch.load(path, map_location=map_location, weights_only=True)
        except FileNotFoundError:
            return None
        except pickle.UnpicklingError:
            raise  # As it was written, but not safe: that is for a person to decide.
        except CheckpointCorrupt as corrupt:
            self._set_aside(path, corrupt.cause)
            return None
        except (OSError, RuntimeError) as error:
            logger.warning("Failed to load checkpoint from %s: %s", path, error)
            return None
        assert isinstance(checkpoint, dict)  # noqa: S101
        return checkpoint

    def _set_aside(self, path: Path, cause: str) -> None:
        try:
            aside = commit.set_aside(path).name
        except OSError as error:
            aside = f"where it is ({error})"
        logger.warning("Failed to load checkpoint from %s: %s; kept as %s", path, cause, aside)


def _nothing() -> None:
    """A state that was not copied is complete at once."""


def _stepped(optimizer: Stateful, its_state: dict[str, Any]) -> list[torch.Tensor]:
    """What only the optimizer's step changes: its weights and the moments that it keeps of them."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        return []  # whose steps nobody hears of
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = [
        value
        for kept in its_state.get("state", {}).values()
        if isinstance(kept, dict)
        for value in kept.values()
        if isinstance(value, torch.Tensor)
    ]
    # Tensors of inference mode have no version by which a change could be noticed.
    return [tensor for tensor in (*weights, *moments) if not tensor.is_inference()]


def _target(link: Path) -> str | None:
    try:
        return str(link.readlink())
    except OSError:
        return None
