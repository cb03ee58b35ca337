"""How a table of the command line looks."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.table import Table


def table_of(*columns: str) -> Table:
    """An empty table with these columns, of which the first is never folded."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, no_wrap=number == 0, overflow="fold")
    return table


def number(value: float | None) -> str:
    """A measured value with four digits; '' for none."""
    return "" if value is None else f"{value:.4g}"
