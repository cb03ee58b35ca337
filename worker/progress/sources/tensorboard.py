"""The curves in TensorBoard's event files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from jobs.model.record import StepSource
from monitoring.files import open_file
from worker.files.look import Seen, folder_of
from worker.progress.points import Curves, Pace, Point, whole
from worker.progress.sources.tfevents import DamagedError, Event, events

NAME = "events.out.tfevents."
# Read at once; parsing takes a tenth of a second. What comes faster is read later.
_BLOCK = 128 << 10


@dataclass
class _File:
    """A file, how far it is read, and up to where it was restored, in bytes."""

    inode: int
    offset: int = 0
    restored: int = 0
    is_damaged: bool = False


class TensorBoard:
    """Reads event files as they grow; a damaged one up to the damage, as TensorBoard does.

    A program begins a new file at each start, so a file is never read again from its beginning.
    """

    name: StepSource = "tensorboard"
    total: int | None = None

    def __init__(self) -> None:
        self.pace = Pace()
        self.values: dict[str, float] = {}
        self._files: dict[str, _File] = {}
        self._steps: dict[str, int] = {}  # the newest of each curve
        self._curves, self._restored_curves = Curves(), Curves()

    @property
    def step(self) -> int | None:
        """The latest step of any curve in this attempt."""
        return max(self._steps.values(), default=None)

    @staticmethod
    def takes(path: str) -> bool:
        """Whether a path is one of this source."""
        return path.rpartition("/")[2].startswith(NAME)

    def read(
        self, path: str, file: Path, seen: Seen, restored: Seen | None
    ) -> tuple[list[Point], bool]:
        """The points that follow in a file, and whether there are more. Raises `OSError`."""
        known = self._files.get(path)
        if known is None or known.inode != seen.inode:
            old = restored.size if restored and restored.inode == seen.inode else 0
            known = self._files[path] = _File(seen.inode, restored=old)
        if known.is_damaged or seen.size <= known.offset:
            return [], False
        with open_file(file) as opened:
            opened.seek(known.offset)
            data = opened.read(_BLOCK)
        start, points = known.offset, []
        try:
            for end, event in events(data):
                known.offset = start + end
                if event is not None and whole(event.step) is not None:
                    is_old = known.offset <= known.restored
                    points.append(self._point(folder_of(path), event, is_old))
        except DamagedError:
            known.is_damaged = True
        more = not known.is_damaged and start < known.offset < seen.size
        return _joined([point for point in points if point.values]), more

    def _point(self, folder: str, event: Event, is_old: bool) -> Point:
        names = (self._restored_curves if is_old else self._curves).named(folder, event.scalars)
        if is_old:
            # Each attempt may have had a folder of its own.
            values = {n: v for n, v in event.scalars.items() if names[n] == n}
            return Point(event.step, values, event.at, restored=True)
        values = {names[name]: value for name, value in event.scalars.items()}
        self._steps |= dict.fromkeys(values, event.step)
        self.values |= values
        if math.isfinite(event.at) and event.step == self.step:
            self.pace.note(event.step, event.at)
        return Point(event.step, values, event.at)


def _joined(points: list[Point]) -> list[Point]:
    """The points, those of one step that follow each other as one."""
    joined: list[Point] = []
    for point in points:
        last = joined[-1] if joined else None
        if (
            last is not None
            and (last.step, last.restored) == (point.step, point.restored)
            and last.values.keys().isdisjoint(point.values)
        ):
            joined[-1] = Point(
                point.step, {**last.values, **point.values}, point.at, point.restored
            )
        else:
            joined.append(point)
    return joined
