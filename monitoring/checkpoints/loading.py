"""Loading checkpoints: every byte is verified, and no file can run code."""

from __future__ import annotations

import argparse
import logging
import pathlib
import pickle
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monitoring.checkpoints import adoption, commit, loss_history, torch_file
from monitoring.checkpoints.adoption import Judged, UnknownFormat
from monitoring.checkpoints.commit import CheckpointCorrupt, Uncommitted
from monitoring.checkpoints.directory import CheckpointDirectory
from monitoring.checkpoints.plain import NUMPY_DTYPES
from monitoring.files import is_quiet

logger = logging.getLogger(__name__)

_multiarray: Any = np._core.multiarray  # type: ignore[attr-defined]
# Classes that a safe load accepts beside tensors and plain values: arrays and numbers of numpy,
# also under their names in numpy 1, and classes that contain only data. `CheckpointManager` writes
# the latter as plain values; other programs do not.
_DATA: list[Any] = [
    *((function, f"numpy.{core}.multiarray.{function.__name__}")
      for function in (_multiarray._reconstruct, _multiarray.scalar) for core in ("core", "_core")),
    np.ndarray,
    np.dtype,
    *NUMPY_DTYPES,
    argparse.Namespace,
    types.SimpleNamespace,
    pathlib.PosixPath,
    pathlib.PurePosixPath,
]  # fmt: skip


class _Unfinished(Exception):  # noqa: N818
    """A file without a record is not whole and has changed within the last hour."""


class Loader:
    """Loads the checkpoints of a directory, and adopts those that another program wrote.

    `allowed` are further classes that a file may contain.
    """

    def __init__(self, directory: CheckpointDirectory, allowed: Sequence[type]) -> None:
        self._directory = directory
        self._safe = [*_DATA, *allowed]

    def load_newest(self, map_location: str | torch.device) -> dict[str, Any] | None:
        """The newest good checkpoint, which `latest` then points at. Raises UnpicklingError."""
        tried: list[Path] = []
        # Another process that saves may remove all of them meanwhile.
        while untried := [path for path in self._directory.newest_first() if path not in tried]:
            tried += untried
            for path in untried:
                if (checkpoint := self.load(path, map_location)) is not None:
                    self._directory.point_latest(path, tried)
                    return checkpoint
        return None

    def load(self, path: Path, map_location: str | torch.device) -> dict[str, Any] | None:
        """The checkpoint in a file; None, with a warning, if it is damaged. Raises UnpicklingError.

        A damaged file is set aside.
        """
        try:
            try:
                commit.verify(path)
            except Uncommitted:
                return self._load_uncommitted(path, map_location)
            return self._read(path, map_location)
        except FileNotFoundError:
            return None
        except CheckpointCorrupt as corrupt:
            self._directory.set_aside(path, corrupt.cause)
            return None
        except (OSError, RuntimeError, _Unfinished) as error:
            logger.warning("Failed to load checkpoint from %s: %s", path, error)
            return None

    def _load_uncommitted(self, path: Path, map_location: str | torch.device) -> dict[str, Any]:
        """The checkpoint in a file of another program, which is adopted."""
        try:
            try:
                judged = adoption.judge(path)
                checkpoint = self._read(path, map_location)
            except UnknownFormat:
                judged, checkpoint = self._read_unknown(path, map_location)
            if not judged.is_still(path):
                raise CheckpointCorrupt(path, "it changed while it was read")
        except CheckpointCorrupt as corrupt:
            if is_quiet(path):
                raise
            raise _Unfinished(
                f"{corrupt.cause}. It has no commit record and has changed within the last hour, "
                "so it may still be being written; it is left in place"
            ) from corrupt
        self._directory.adopt(path, judged)
        return checkpoint

    def _read_unknown(
        self, path: Path, map_location: str | torch.device
    ) -> tuple[Judged, dict[str, Any]]:
        """Load a file that is not a zip archive: torch had other formats before."""
        judged, legacy = adoption.measure(path), torch_file.is_legacy(path)
        try:
            return judged, self._read(path, map_location)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a file of another kind may raise anything
            if not legacy:
                raise CheckpointCorrupt(path, "torch.save did not write it") from error
            if isinstance(error, pickle.UnpicklingError):
                raise
            raise RuntimeError(f"torch cannot read it: {error!r}") from error

    def _read(self, path: Path, map_location: str | torch.device) -> dict[str, Any]:
        try:
            file, losses = loss_history.cut_out(path)
            with file, torch.serialization.safe_globals(self._safe):
                checkpoint = torch.load(file, map_location=map_location, weights_only=True)
        except pickle.UnpicklingError as error:
            raise pickle.UnpicklingError(
                f"{path} is as it was written, but a safe load refuses it. If you trust the file, "
                "name its classes in CheckpointManager(..., allowed_types=[...]), or load it "
                f"yourself with torch.load(..., weights_only=False). {error}"
            ) from error
        if not isinstance(checkpoint, dict):
            raise RuntimeError(f"it holds a {type(checkpoint).__name__}, not a dict")
        if losses is not None:
            checkpoint[loss_history.KEY] = losses
        elif isinstance(packed := checkpoint.get(loss_history.KEY), torch.Tensor):
            checkpoint[loss_history.KEY] = packed.tolist()  # as earlier versions wrote them
        return checkpoint
