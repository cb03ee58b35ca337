"""How far downloads are: a bar on a terminal, and a summary everywhere."""

from __future__ import annotations

from typing import Self

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from api.render.terminal import console
from monitoring.disk import file_size


class Downloads:
    """Shows the bytes that have come, on standard error, while it is open."""

    def __init__(self) -> None:
        screen = console(stderr=True)
        self._bar = Progress(
            BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
            console=screen, transient=True, disable=not screen.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=None)
        self._new = 0  # bytes

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, come: int, new: int) -> None:
        """Takes the bytes that have come, and those of all new files."""
        self._new = new
        self._bar.update(self._task, completed=come, total=new)

    def summary(self, files: int) -> str:
        """What there is now, and how much of it is new."""
        count = "1 file" if files == 1 else f"{files} files"
        return f"{count}, {file_size(self._new)} new" if self._new else f"{count}, nothing new"
