"""How a table of the command line looks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table

_ANY_WIDTH = 10_000


class FittingTable(Table):
    """A table that leaves out columns where it is wider than the terminal."""

    first_to_go: Sequence[str] = ()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the table, without the columns that have no room."""
        shown = copy.copy(self)
        wide = options.update(max_width=_ANY_WIDTH)
        for name in self.first_to_go:
            if Measurement.get(console, wide, shown).maximum <= options.max_width:
                break
            left = [column for column in shown.columns if column.header != name]
            shown.columns = [replace(column, _index=index) for index, column in enumerate(left)]
        yield from Table.__rich_console__(shown, console, options)


def table_of(*columns: str, first_to_go: Sequence[str] = ()) -> Table:
    """An empty table with these columns, of which the first is never folded.

    Where it has no room, it does without those of `first_to_go`, in that order.
    """
    table = FittingTable(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.first_to_go = first_to_go
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def number(value: float | None) -> str:
    """A measured value with four digits; '' for none."""
    return "" if value is None else f"{value:.4g}"
