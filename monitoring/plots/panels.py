"""Parts of figures: the dark theme, sheets with panels, fitted text, ticks and heatmaps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.gridspec import GridSpec
from matplotlib.textpath import text_to_path
from matplotlib.ticker import Formatter, MaxNLocator, MultipleLocator

from monitoring.arrays import Array
from monitoring.plots.curves import flat

BACKGROUND, PANEL, GRID, TEXT, MUTED = "#0f141b", "#151c26", "#2a3442", "#e6edf3", "#8b98a9"
COLORS = ("#4cc9f0", "#f9a03f", "#80ed99", "#f72585", "#b692f6", "#ffd166", "#5e9cff", "#ff7b72")
ALARM = COLORS[7]
_FONT = "DejaVu Sans"

THEME: Any = {
    "figure.facecolor": BACKGROUND,
    "figure.dpi": 110,
    "axes.facecolor": PANEL,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.titley": 1.0,  # do not search for a free place
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": TEXT,
    "text.parse_math": False,  # a dollar sign in the name of a metric is literal
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "font.size": 10,
    "font.family": _FONT,
}
_HUGE = 1e150  # larger values are drawn there: margins and ticks of an axis would overflow
_STEPS = [1, 2, 2.5, 5, 10]  # between ticks, times a power of ten
_PREFIXES = ("", "k", "M", "G", "T")

# Inches. A layout that matplotlib computes takes as long as the drawing itself.
WIDTH = 12.0
LEFT, RIGHT = 0.8, 0.3
_TOP, _BOTTOM = 0.85, 0.6
_ACROSS, _DOWN = 0.75, 0.8  # between panels


class Ticks(Formatter):
    """Short labels of an axis, such as `152k` or `3e−5`, with enough digits to be different."""

    def __call__(self, value: float, _position: int | None = None) -> str:
        """The label of one tick."""
        return short(value)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        """A label for each tick, all different."""
        places = np.asarray(values, dtype=np.float64)
        if places.size > 1:  # a rounding error of a subtraction is zero
            apart = np.abs(np.diff(places)).min()
            places = np.where(np.abs(places) < 1e-6 * apart, 0.0, places)
        labels: list[str] = []
        for digits in (4, 7, 10, 13, 17):
            labels = [short(value, digits) for value in places.tolist()]
            if len(set(labels)) == len(labels):
                break
        return labels


def short(value: float, digits: int = 4) -> str:
    """A number with this many digits, as text for people: `0.0003`, `152.3k`, `1e30`."""
    size = 0
    mantissa = value
    while abs(mantissa) >= 999.95 and size < len(_PREFIXES):
        size, mantissa = size + 1, mantissa / 1000
    if size < len(_PREFIXES):
        text = f"{mantissa:.{digits}g}" + _PREFIXES[size]
    else:
        text = f"{value:.{digits}g}"
    if "e" in text:
        number, _, exponent = text.partition("e")
        text = f"{number}e{int(exponent)}"
    return text.replace("-", "\N{MINUS SIGN}")


def fit(text: str, inches: float, size: float, weight: str = "bold") -> str:
    """Shorten a text to one line of this width, with an ellipsis in the middle.

    Both ends are kept: names of runs and metrics may differ at either.
    """
    text = " ".join(text.split())
    if len(text) > 400:
        text = f"{text[:200]}…{text[-200:]}"
    width = text_width(text, size, weight)
    if width <= inches:
        return text
    keep = int(len(text) * inches / width)
    while keep > 1:
        tail = keep // 3
        shorter = f"{text[: keep - tail].rstrip()}…{text[len(text) - tail :].lstrip()}"
        if text_width(shorter, size, weight) <= inches:
            return shorter
        keep -= 1
    return "…"


def text_width(text: str, size: float, weight: str = "bold") -> float:
    """The width of a text, in inches."""
    width, _, _ = text_to_path.get_text_width_height_descent(text, _font(size, weight), False)
    return float(width) / 72


def overview(count: int, title: str, note: str, band: float = 0) -> tuple[Figure, list[Axes]]:
    """A sheet with this many panels, the first one large, below a band of this height."""
    columns = min(3, max(1, count - 1))
    rows = -(-max(0, count - 1) // columns)
    figure = sheet(4.9 + 2.7 * rows + band, title, note)
    places = grid(figure, (1.75,) + (1.0,) * rows, (1.0,) * columns, band)
    panels = [places[0, :], *(places[1 + n // columns, n % columns] for n in range(count - 1))]
    return figure, [figure.add_subplot(panel) for panel in panels]


def pair(title: str, step: int, projection: str | None = None) -> tuple[Figure, Axes, Axes]:
    """A sheet with two panels, left and right."""
    figure = sheet(5.0, title, f"step {step:,}")
    places = grid(figure, (1.0,), (1.0, 1.25))
    left = figure.add_subplot(places[0], projection=projection)
    return figure, left, figure.add_subplot(places[1])


def sheet(height: float, title: str, note: str) -> Figure:
    """A figure of this height in inches; a long title is shortened to leave room for the note."""
    figure = Figure(figsize=(WIDTH, height))
    note = f"   ·   {note}"
    title = fit(title, WIDTH - 0.6 - text_width(note, 14), 14)
    figure.text(
        0.25 / WIDTH, 1 - 0.18 / height, title + note, va="top", fontsize=14, fontweight="bold"
    )
    return figure


def grid(
    figure: Figure, heights: Sequence[float], widths: Sequence[float], band: float = 0.0
) -> GridSpec:
    """A grid of panels with these proportions and constant gaps."""
    width, height = figure.get_size_inches()
    rows, columns = len(heights), len(widths)
    panel_width = (width - LEFT - RIGHT - (columns - 1) * _ACROSS) / columns
    panel_height = (height - _TOP - band - _BOTTOM - (rows - 1) * _DOWN) / rows
    return figure.add_gridspec(
        rows, columns, height_ratios=heights, width_ratios=widths,
        left=LEFT / width, right=1 - RIGHT / width, wspace=_ACROSS / panel_width,
        bottom=_BOTTOM / height, top=1 - (_TOP + band) / height, hspace=_DOWN / panel_height,
    )  # fmt: skip


def panel_width(axes: Axes) -> float:
    """The width of a panel, in inches."""
    return float(axes.get_position().width) * WIDTH


def heatmap(
    figure: Figure, axes: Axes, table: Array, colors: str, label: str, *,
    limits: tuple[float, float] | None = None, every: float | None = None, stride: int = 1,
    first: int = 0,
) -> None:  # fmt: skip
    """Draw a table in colors, with ticks at multiples of `every`; non-finite cells stay empty.

    The first column has the number `first`.
    """
    rows, columns = table.shape
    known = finite(table)
    for axis in (axes.xaxis, axes.yaxis):
        whole_numbers(axis)
    axes.grid(visible=False)
    if not known.size:
        say(axes, "no finite values" if table.size else "no data yet")
        return
    low, high = limits or opened(float(known.min()), float(known.max()))
    image = axes.imshow(
        clipped(table), aspect="auto", cmap=colors, vmin=low, vmax=high, interpolation="nearest",
        extent=(first - 0.5, first + columns - 0.5, rows * stride - 0.5, -0.5),
    )  # fmt: skip
    ticks = MultipleLocator(every) if every else few_ticks()
    bar = figure.colorbar(image, ax=axes, label=label, pad=0.02, format=Ticks(), ticks=ticks)
    bar.outline.set_visible(False)


def whole_numbers(axis: Any) -> None:
    """Set ticks at whole numbers only: steps, tokens and waves have no fractions."""
    axis.set_major_locator(MaxNLocator("auto", steps=_STEPS, integer=True, min_n_ticks=1))
    axis.set_major_formatter(Ticks())


def few_ticks() -> MaxNLocator:
    """A few ticks, for an axis whose labels may be long."""
    return MaxNLocator(6, steps=_STEPS)


def say(axes: Axes, text: str) -> None:
    """Write a few words into an empty panel."""
    axes.set(xticks=[], yticks=[])
    axes.text(
        0.5, 0.5, text, ha="center", va="center", color=MUTED, fontsize=12, transform=axes.transAxes
    )


def not_finite(*tables: Array) -> str:
    """`3 not finite`: the number of values that are not drawn; empty if all are."""
    count = sum(int(table.size - np.isfinite(table).sum()) for table in tables)
    return f"{count:,} not finite" if count else ""


def finite(table: Array) -> Array:
    """The finite values, as a flat array."""
    return clipped(table[np.isfinite(table)])


def clipped(table: Array) -> Array:
    """The values, limited to what an axis can show; NaN for what is not finite."""
    return np.where(np.isfinite(table), np.clip(table, -_HUGE, _HUGE), np.nan)


def opened(low: float, high: float) -> tuple[float, float]:
    """Axis limits for values in this range; equal values get some space around them."""
    if not flat(low, high):
        return low, high
    reach = 0.1 * max(abs(low), abs(high)) or 1.0
    return low - reach, high + reach


@cache
def _font(size: float, weight: str) -> FontProperties:
    return FontProperties(family=_FONT, size=size, weight=weight)
