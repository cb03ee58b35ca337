"""What is read of a program: points of its curves, and the step that it has reached."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# Names of a training loss, the best first; in small letters.
_LOSSES = (
    "loss", "train_loss", "train/loss", "loss/train", "training_loss", "training/loss",
    "train/train_loss", "train_loss_step", "train/loss_step", "loss_step", "train/total_loss",
    "total_loss", "loss/total", "train_loss_epoch", "train/loss_epoch", "loss_epoch", "epoch_loss",
)  # fmt: skip
# A step beyond this is none: a time, or garbage.
MOST_STEPS = 1 << 62


@dataclass(frozen=True)
class Point:
    """Values at one step, by the names of their curves.

    `at` is in seconds since the epoch. A `restored` point comes from what earlier attempts wrote.
    """

    step: int
    values: Mapping[str, float]
    at: float
    restored: bool = False


def whole(number: float | None) -> int | None:
    """A step; None for what is none."""
    if number is None or not math.isfinite(number) or not 0 <= number < MOST_STEPS:
        return None
    return int(number) if float(number).is_integer() else None


def training_loss(values: Mapping[str, float]) -> float | None:
    """The training loss among values by name; None if none has the name of one."""
    named = {name.lower(): value for name, value in values.items()}
    return next((named[name] for name in _LOSSES if name in named), None)


class Pace:
    """The seconds for a step, from the first and the last step that this attempt was seen at."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def note(self, step: int, at: float) -> None:
        """Notes that a step was reached `at` this time, in seconds of any clock."""
        if self._first is None or step < self._first[0]:
            self._first = step, at
        self._last = step, at

    @property
    def seconds(self) -> float | None:
        """Seconds for a step; None until it is known."""
        if self._first is None or self._last is None:
            return None
        steps, seconds = self._last[0] - self._first[0], self._last[1] - self._first[1]
        return seconds / steps if steps > 0 and seconds > 0 else None


class Curves:
    """Names the curves of files of one kind: as the file does, if only one of them does so.

    Two loggers may write `loss`, each into its folder: the second one's is `folder/loss`.
    """

    def __init__(self) -> None:
        self._folders: dict[str, str] = {}

    def named(self, folder: str, names: Iterable[str]) -> dict[str, str]:
        """The names of curves, by the names in a file of `folder`."""
        last = folder.rpartition("/")[2]
        return {
            name: name if self._folders.setdefault(name, folder) == folder else f"{last}/{name}"
            for name in names
        }
