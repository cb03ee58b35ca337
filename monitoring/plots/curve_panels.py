"""Panels with curves: a metric of one run with its resumes, or of several runs with a key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from monitoring.arrays import Array
from monitoring.plots.curves import Curve, Resume, smooth
from monitoring.plots.panels import (
    ALARM,
    COLORS,
    LEFT,
    RIGHT,
    TEXT,
    WIDTH,
    Ticks,
    clipped,
    finite,
    fit,
    not_finite,
    opened,
    panel_width,
    say,
    short,
    text_width,
    whole_numbers,
)

_RESUME = TEXT  # a color that no curve has
Style = Any  # as Line2D takes it
_STYLES: Sequence[Style] = (
    "-",
    (0, (5, 1.5)),
    (0, (1.5, 1.2)),
    (0, (6, 1.5, 1.5, 1.5)),
)  # when colours run out
_DRAWN_POINTS = 4000  # per curve; more than the pixels of a panel's width
_MARKED = 16  # values; in a shorter curve each is marked with a dot
_TINY = 1e-150  # likewise on a log axis
_LOG_SPAN = 8.0  # a positive curve with a larger ratio of maximum to minimum gets a log axis
_SCHEDULES = {"learning_rate", "lr"}  # schedules keep a linear axis, which shows their shape
_OVER_ITS_EQUAL = (0, (4, 4))  # dashes, so that an equal curve below is visible
_FEW_RESUMES = 12  # more lines would hide the curve

# Inches, where a name is written, and points.
_NAME_GAP, _MANY_GAP = 0.22, 1.0
_KEY_ROW, _KEY_HANDLE, _KEY_SIZE = 0.21, 0.6, 9
_LISTED = 4  # runs whose names may have a row each
_KEY_ROWS = 30  # of runs that are named


def draw_curve(
    axes: Axes, step: int, curve: Curve, color: str, resumes: Sequence[Resume], *,
    name_resumes: bool,
) -> None:  # fmt: skip
    """Draw a metric from step 0 to `step`, its last value, the resumes and non-finite values."""
    known = curve.values[np.isfinite(curve.values)]
    last = short(float(known[-1])) if known.size else ""
    _dress(axes, curve.name, [curve.values], step, panel_width(axes) - text_width(last, 10) - 0.15)
    if not known.size and not curve.values.size:
        return
    if known.size:
        _plot_smoothed(axes, curve, color, "-")
        axes.annotate(
            last, xy=(1, 1), xycoords="axes fraction",
            ha="right", va="bottom", xytext=(0, 6), textcoords="offset points",
            color=color, fontweight="bold",
        )  # fmt: skip
        _mark_resumes(axes, step, resumes, named=name_resumes)
    broken = ~np.isfinite(curve.values)
    if broken.any():
        axes.plot(
            curve.steps[broken], np.full(broken.sum(), 0.02), "x", color=ALARM,
            transform=axes.get_xaxis_transform(), markersize=5, clip_on=False,
        )  # fmt: skip


def draw_comparison(axes: Axes, name: str, runs: Sequence[Sequence[Curve]]) -> None:
    """Draw one metric of every run that has it."""
    found = [(n, curve) for n, curves in enumerate(runs) for curve in curves if curve.name == name]
    last = max((float(curve.steps[-1]) for _, curve in found if curve.steps.size), default=0.0)
    _dress(axes, name, [curve.values for _, curve in found], last, panel_width(axes))
    drawn: list[Curve] = []
    for number, curve in found:
        if np.isfinite(curve.values).any():
            color, style = _look(number)
            hides = any(_is_same(curve, other) for other in drawn)
            _plot_smoothed(axes, curve, color, _OVER_ITS_EQUAL if hides else style)
            drawn.append(curve)


def key(figure: Figure, experiments: Sequence[tuple[str, Sequence[Curve]]]) -> None:
    """Draw the names and last losses of the runs, in columns below the title."""
    columns = _key_columns(experiments)
    named = experiments[: columns * _KEY_ROWS]
    width = (WIDTH - LEFT - RIGHT) / columns - _KEY_HANDLE
    height = figure.get_size_inches()[1]
    for index, (name, curves) in enumerate(named):
        left = (LEFT + (index % columns) * (width + _KEY_HANDLE)) / WIDTH
        middle = 1 - (0.6 + (index // columns) * _KEY_ROW) / height
        color, style = _look(index)
        handle = Line2D(
            [left, left + 0.3 / WIDTH], [middle, middle], color=color, linestyle=style,
            transform=figure.transFigure, figure=figure,
        )  # fmt: skip
        figure.add_artist(handle)
        value = _final(curves)
        room = width - text_width(value, _KEY_SIZE) - 0.1
        text = f"{fit(name, room, _KEY_SIZE, 'normal')}  {value}"
        figure.text(
            left + 0.4 / WIDTH, middle, text, color=TEXT, fontsize=_KEY_SIZE,
            va="center_baseline",
        )  # fmt: skip
    if len(named) < len(experiments):
        figure.text(
            1 - RIGHT / WIDTH, 1 - 0.3 / height, f"{len(named)} of the runs are named",
            ha="right", va="center", fontsize=_KEY_SIZE,
        )  # fmt: skip


def key_height(experiments: Sequence[tuple[str, Sequence[Curve]]]) -> float:
    """The height of the key, in inches."""
    rows = min(_KEY_ROWS, -(-len(experiments) // _key_columns(experiments)))
    return rows * _KEY_ROW + 0.05 if rows else 0.0


def name_resumes(
    resumes: Sequence[Resume], until: int, apart: float
) -> list[tuple[int, str]]:  # fmt: skip
    """The labels of resumes and their steps; resumes that are close together share a label.

    An attempt is named by its number, any other resume by its place in the order of time.
    Resumes beyond the step `until` are left out.
    """
    groups: list[tuple[int, list[int], list[int]]] = []
    for place, resume in sorted(enumerate(resumes, start=1), key=lambda pair: pair[1].step):
        if not 0 <= resume.step <= until:
            continue
        if not groups or (resume.step != groups[-1][0] and resume.step - groups[-1][0] >= apart):
            groups.append((resume.step, [], []))
        _, attempts, places = groups[-1]
        if resume.attempt > 0:
            attempts.append(resume.attempt)
        else:
            places.append(place)
    return [
        (step, ", ".join([*_numbered("attempt", attempts), *_numbered("resume", places)]))
        for step, attempts, places in groups
    ]


def _numbered(noun: str, numbers: Iterable[int]) -> list[str]:
    """`attempt 2`, `attempts 2, 4` or `attempts 2–4, 7`; empty without numbers."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [
        f"{run[0]}\N{EN DASH}{run[-1]}"
        if len(run) > 2
        else ", ".join(str(number) for number in run)
        for run in runs
    ]
    if not parts:
        return []
    return [f"{noun}{'s' if len(runs) > 1 or len(runs[0]) > 1 else ''} {', '.join(parts)}"]


def _mark_resumes(axes: Axes, step: int, resumes: Sequence[Resume], *, named: bool) -> None:
    steps = sorted({resume.step for resume in resumes if 0 <= resume.step <= step})
    if not steps:
        return
    few = len(steps) <= _FEW_RESUMES
    axes.vlines(
        steps, 0, 1, transform=axes.get_xaxis_transform(), color=_RESUME,
        linestyle=(0, (2, 3)), linewidth=1.1 if few else 0.7, alpha=0.7 if few else 0.3,
    )  # fmt: skip
    if not named:
        return
    inch = max(step, 1) / panel_width(axes)
    for place, text in name_resumes(resumes, step, inch * (_NAME_GAP if few else _MANY_GAP)):
        inside = place + _NAME_GAP * inch < step
        axes.annotate(
            text, xy=(place, 1), xycoords=("data", "axes fraction"),
            xytext=(3 if inside else -2, -4), textcoords="offset points", rotation=90, va="top",
            ha="left" if inside else "right", fontsize=8, color=_RESUME,
        )  # fmt: skip


def _is_same(curve: Curve, other: Curve) -> bool:
    return np.array_equal(curve.steps, other.steps) and np.array_equal(
        curve.values, other.values, equal_nan=True
    )


def _plot_smoothed(axes: Axes, curve: Curve, color: str, style: Style) -> None:
    """Draw the range of a curve in a pale color and its moving mean as a line."""
    values = clipped(curve.values)
    if axes.get_yscale() == "log":  # the mean of 1e30 and 3 is not the middle of a log axis
        values = np.maximum(values, _TINY)
        logs = np.log(values)
        average = smooth(logs)
        line = values if average is logs else np.exp(average)
    else:
        line = smooth(values)
    if line is values:
        mark = "o" if len(line) < _MARKED else None
        axes.plot(curve.steps, line, color=color, linestyle=style, marker=mark, markersize=4)
        if mark is None:
            _mark_lonely(axes, curve.steps, values, color)
        return
    stride = -(-len(line) // _DRAWN_POINTS)
    axes.plot(curve.steps[::stride], values[::stride], color=color, alpha=0.28, linewidth=0.8)
    axes.plot(curve.steps[::stride], line[::stride], color=color, linestyle=style)


def _mark_lonely(axes: Axes, steps: Array, values: Array, color: str) -> None:
    """Draw dots for values between two gaps, where no line is visible."""
    known = np.isfinite(values)
    if known.all():
        return
    beside = np.zeros_like(known)
    beside[1:] |= known[:-1]
    beside[:-1] |= known[1:]
    lonely = known & ~beside
    if lonely.any():
        axes.plot(steps[lonely], values[lonely], ".", color=color, markersize=4)


def _dress(axes: Axes, name: str, drawn: Sequence[Array], last: float, room: float) -> None:
    """Set title and axes of a panel for these values up to the last step."""
    is_schedule = name in _SCHEDULES
    name = name.replace("_", " ")
    size = 12.0 if text_width(name[:400], 12) <= room else 9.0
    axes.set_title(fit(name, room, size), fontsize=size)
    axes.set_xlabel("step")
    margin = 0.01 * last or 0.5
    axes.set_xlim(-margin, last + margin)
    whole_numbers(axes.xaxis)
    values = finite(np.concatenate(drawn)) if drawn else np.empty(0)
    broken = not_finite(*drawn)
    if not values.size:
        say(axes, f"no finite values, {broken}" if broken else "no data yet")
        return
    if broken:
        axes.annotate(
            broken, xy=(0, 0), xycoords="axes fraction", xytext=(0, -19),
            textcoords="offset points", va="top", fontsize=9, color=ALARM,
        )  # fmt: skip
    low, high = float(values.min()), float(values.max())
    if low > 0 and high / _LOG_SPAN > low and not is_schedule:
        axes.set_yscale("log")
        wide = high / 300 > low
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.minorticks_off()
    elif opened(low, high) != (low, high):
        axes.set_ylim(*opened(low, high))
    axes.yaxis.set_major_formatter(Ticks())


def _look(number: int) -> tuple[str, Style]:
    """Color and line style of a run, different for 32 runs."""
    return COLORS[number % len(COLORS)], _STYLES[number // len(COLORS) % len(_STYLES)]


def _key_columns(experiments: Sequence[tuple[str, Sequence[Curve]]]) -> int:
    """The number of columns that the longest name allows; with many runs it is shortened."""
    longest = max(
        (text_width(f"{name[:200]}  {_final(curves)}", _KEY_SIZE, "normal")
         for name, curves in experiments),
        default=0.0,
    )  # fmt: skip
    least = 1 if len(experiments) <= _LISTED else 2
    return max(least, min(4, int((WIDTH - LEFT - RIGHT) / (longest + _KEY_HANDLE + 0.1))))


def _final(curves: Sequence[Curve]) -> str:
    """The last loss of a run as text, also if there is none."""
    for curve in curves:
        known = curve.values[np.isfinite(curve.values)]
        if curve.name == "loss" and known.size:
            return short(float(known[-1]))
    return "no data"
