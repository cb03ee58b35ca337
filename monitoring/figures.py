"""The figures of a run, drawn in a dark theme without touching matplotlib's settings.

Every function takes numpy arrays and gives a figure; nothing here needs a display, torch or
pyplot. The figures of a model show every `stride`-th token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator

from monitoring.curves import Array, Curve
from monitoring.files import temporary

BACKGROUND, PANEL, GRID, TEXT, MUTED = "#0f141b", "#151c26", "#2a3442", "#e6edf3", "#8b98a9"
COLORS = ("#4cc9f0", "#f9a03f", "#80ed99", "#f72585", "#b692f6", "#ffd166", "#5e9cff", "#ff7b72")

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
    "axes.titley": 1.0,  # no search for a place where nothing is
    "axes.labelsize": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": TEXT,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "font.size": 10,
    "font.family": "DejaVu Sans",
}
_THOUSANDS = EngFormatter(sep="")
_DRAWN_POINTS = 4000  # per curve: more than pixels across
_SMOOTHED = 16  # values; a shorter curve is drawn as it is
_NOISE = 1e-3  # of the curve's span; less is no noise
_LOG_SPAN = 8.0  # a positive curve that spans more than this factor gets a log axis
_FAST = 3  # of 9, in compression: half the time for a tenth more bytes

# Inches. A layout that matplotlib computes from what it has drawn takes as long as the drawing.
_WIDTH = 12.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.8, 0.3, 0.85, 0.6
_ACROSS, _DOWN = 0.75, 0.8  # between panels


def training_dynamics(
    step: int, curves: Sequence[Curve], resumes: Sequence[int], title: str
) -> Figure:
    """Every curve in a panel of its own, the loss first and large, resumes marked."""
    figure, panels = _overview(len(curves), title, f"step {step:,}")
    for index, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        color = COLORS[index % len(COLORS)]
        _draw_curve(axes, curve, color, resumes, name_resumes=index == 0)
    return figure


def comparison(experiments: Sequence[tuple[str, Sequence[Curve]]]) -> Figure:
    """The same metric of several runs in one panel each, the loss first and large."""
    names: list[str] = []
    for _, curves in experiments:
        names += [curve.name for curve in curves if curve.name not in names]
    note = f"{len(experiments)} runs"
    figure, panels = _overview(len(names), "Experiment comparison", note)
    for index, (axes, name) in enumerate(zip(panels, names, strict=True)):
        drawn = []
        for number, (experiment, curves) in enumerate(experiments):
            for curve in curves:
                if curve.name == name and np.isfinite(curve.values).any():
                    color = COLORS[number % len(COLORS)]
                    label = f"{experiment}  {_short(_last(curve.values))}" if index == 0 else None
                    _plot_smoothed(axes, curve, color, label)
                    drawn.append(curve.values)
        _dress(axes, name, drawn)
        if index == 0 and drawn:
            axes.legend(loc="upper right", labelcolor=TEXT)
    return figure


def frequencies(step: int, stride: int, base: Array) -> Figure:
    """Where the base frequencies lie, and those of single tokens. `base`: (tokens, waves)."""
    figure, left, right = _pair("Base frequencies", step)
    left.hist(base.ravel(), bins=80, color=COLORS[0], alpha=0.9)
    left.axvline(float(np.median(base)), color=COLORS[1], linewidth=1.2)
    left.set(xlabel="frequency", ylabel="waves")
    left.set_title(f"Distribution, median {_short(float(np.median(base)))}")
    _heatmap(figure, right, np.sort(base, axis=1), "viridis", "frequency", stride=stride)
    right.set(xlabel="wave, by frequency", ylabel="token")
    right.set_title("Frequencies of each token")
    return figure


def phases(step: int, stride: int, phi: Array) -> Figure:
    """The phases on their circle, and those of single tokens. `phi`: (tokens, waves), radians."""
    turned = np.mod(phi, 2 * np.pi)
    figure, circle, right = _pair("Phases", step, projection="polar")
    counts, edges = np.histogram(turned, bins=48, range=(0, 2 * np.pi))
    circle.bar(
        (edges[:-1] + edges[1:]) / 2, counts, width=np.diff(edges), color=COLORS[4], alpha=0.85
    )
    circle.set_yticklabels([])
    order = abs(np.exp(1j * turned).mean())
    place = circle.get_position()
    circle.set_position((place.x0, place.y0, place.width, 0.9 * place.height))
    circle.set_title(f"Phases around the circle, order {order:.3f}", x=0, y=1.11)
    _heatmap(figure, right, turned, "twilight", "phase (rad)", limits=(0, 2 * np.pi), stride=stride)
    right.set(xlabel="wave", ylabel="token")
    right.set_title("Phases of each token")
    return figure


def harmonics(step: int, stride: int, amplitudes: Array) -> Figure:
    """How strong each harmonic is. `amplitudes`: (tokens, waves, harmonics)."""
    strength = np.abs(amplitudes)
    numbers = np.arange(1, strength.shape[2] + 1)
    figure, left, right = _pair("Harmonic amplitudes", step)
    flat = strength.reshape(-1, strength.shape[2])
    low, middle, high = np.percentile(flat, [10, 50, 90], axis=0)
    left.bar(numbers, flat.mean(axis=0), color=COLORS[2], alpha=0.55, width=0.7, label="mean")
    left.errorbar(
        numbers, middle, yerr=[middle - low, high - middle], fmt="o", color=COLORS[1],
        capsize=3, linewidth=1.2, label="median, 10 to 90 %",
    )  # fmt: skip
    left.set(xlabel="harmonic", ylabel="|amplitude|", xticks=numbers)
    left.set_title("Strength of each harmonic")
    left.set_ylim(top=float(high.max()) * 1.2)
    left.legend(loc="upper center", ncols=2, labelcolor=TEXT)
    _heatmap(figure, right, strength.mean(axis=0), "magma", "mean |amplitude|")
    right.set(xlabel="harmonic", ylabel="wave")
    right.set_xticks(numbers - 1, labels=[str(number) for number in numbers])
    right.set_title("By wave")
    return figure


def wave_packets(step: int, stride: int, base: Array, phi: Array, amplitudes: Array) -> Figure:
    """The packets of a few tokens over two periods of the unit wave.

    ψ(x) = Σ_w Σ_h a[w, h] · sin(2π · h · f[w] · x + φ[w]), the embedding's wave at position 0.
    """
    shown = min(6, len(base))
    tokens = np.linspace(0, len(base) - 1, shown).astype(int)
    x = np.linspace(0, 2, 800)
    order = np.arange(1, amplitudes.shape[2] + 1)
    apart = 0.0
    waves = []
    for token in tokens:
        angle = 2 * np.pi * base[token][:, None] * order  # (W, H)
        angle = angle[..., None] * x + phi[token][:, None, None]  # (W, H, X)
        waves.append((amplitudes[token][..., None] * np.sin(angle)).sum(axis=(0, 1)))
        apart = max(apart, 2.2 * float(np.nanmax(np.abs(waves[-1]), initial=0.0)))

    figure = _sheet(1.7 + 0.9 * shown, "Wave packets of single tokens", f"step {step:,}")
    axes = figure.add_subplot(_grid(figure, (1.0,), (1.0,))[0])
    levels = -apart * np.arange(shown)
    for number, (level, psi) in enumerate(zip(levels, waves, strict=True)):
        color = COLORS[number % len(COLORS)]
        axes.plot(x, level + psi, color=color, linewidth=1.3)
        axes.fill_between(x, level + psi, level, color=color, alpha=0.15, linewidth=0)
    axes.set_yticks(levels, labels=[str(token * stride) for token in tokens])
    axes.set_title(f"The lines of two tokens are {_short(apart)} apart")
    axes.set(xlabel="position in periods of the unit wave", ylabel="token")
    axes.margins(x=0, y=0.02)
    return figure


def save(draw: Callable[..., Figure], path: Path, arguments: Mapping[str, Any]) -> None:
    """Draw a figure in the theme and put its PNG in place in one step. Raises OSError."""
    with rc_context(THEME):
        canvas = FigureCanvasAgg(draw(**arguments))
        draft = temporary(path)
        try:
            # Figure.savefig would draw twice, once for the layout.
            canvas.print_png(draft, pil_kwargs={"compress_level": _FAST})  # type: ignore[no-untyped-call]
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def smooth(values: Array) -> Array:
    """The mean around each value, over a window that grows with the curve and narrows at its ends.

    Holes (NaN and infinities) are left out. A curve without noise stays as it is.
    """
    finite = np.isfinite(values)
    known = values[finite]
    span = np.ptp(known) if known.size else 0.0
    if known.size < _SMOOTHED or np.median(np.abs(np.diff(known, 2))) < _NOISE * span:
        return values
    index = np.arange(len(values))
    widest = max(4, len(values) // 120)
    reach = np.clip(np.minimum(index, index[::-1]), widest // 4, widest)
    first, last = np.maximum(index - reach, 0), np.minimum(index + reach, index[-1]) + 1
    for _ in range(2):  # a mean of means has no corners
        total = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
        count = np.concatenate([[0], np.cumsum(finite)])
        seen = count[last] - count[first]
        values = (total[last] - total[first]) / np.where(seen == 0, np.nan, seen)
        finite = np.isfinite(values)
    return values


def _draw_curve(
    axes: Axes, curve: Curve, color: str, resumes: Sequence[int], *, name_resumes: bool
) -> None:
    _plot_smoothed(axes, curve, color, None)
    _dress(axes, curve.name, [curve.values])
    finite = np.flatnonzero(np.isfinite(curve.values))
    if finite.size:
        axes.annotate(
            _short(float(curve.values[finite[-1]])), xy=(1, 1), xycoords="axes fraction",
            ha="right", va="bottom", xytext=(0, 6), textcoords="offset points",
            color=color, fontweight="bold",
        )  # fmt: skip
    for number, resumed in enumerate(sorted(set(resumes)), start=1):
        axes.axvline(resumed, color=COLORS[3], linestyle=(0, (2, 3)), linewidth=1.1, alpha=0.9)
        if name_resumes:
            axes.annotate(
                f"resume {number}", xy=(resumed, 1), xycoords=("data", "axes fraction"),
                xytext=(4, -4), textcoords="offset points", rotation=90, va="top",
                fontsize=8, color=COLORS[3],
            )  # fmt: skip
    broken = ~np.isfinite(curve.values)
    if broken.any():
        axes.plot(
            curve.steps[broken], np.full(broken.sum(), 0.02), "x", color=COLORS[7],
            transform=axes.get_xaxis_transform(), markersize=5, clip_on=False,
        )  # fmt: skip


def _plot_smoothed(axes: Axes, curve: Curve, color: str, label: str | None) -> None:
    """The curve's range in a pale tone, its average as a line over it."""
    line = smooth(curve.values)
    if line is curve.values:
        mark = "o" if len(line) < _SMOOTHED else None
        axes.plot(curve.steps, line, color=color, marker=mark, markersize=4, label=label)
        return
    stride = -(-len(line) // _DRAWN_POINTS)
    axes.plot(curve.steps[::stride], curve.values[::stride], color=color, alpha=0.28, linewidth=0.8)
    axes.plot(curve.steps[::stride], line[::stride], color=color, label=label)


def _dress(axes: Axes, name: str, drawn: Sequence[Array]) -> None:
    axes.set_title(name.replace("_", " "))
    axes.set_xlabel("step")
    axes.margins(x=0.01)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    values = np.concatenate([part[np.isfinite(part)] for part in drawn]) if drawn else np.empty(0)
    if values.size and values.min() > 0 and values.max() / values.min() > _LOG_SPAN:
        axes.set_yscale("log")
        wide = values.max() / values.min() > 300
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0,) if wide else (1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.minorticks_off()


def _heatmap(
    figure: Figure, axes: Axes, table: Array, colors: str, label: str, *,
    limits: tuple[float, float] | None = None, stride: int = 1,
) -> None:  # fmt: skip
    low, high = limits or (float(table.min()), float(table.max()))
    rows, columns = table.shape
    image = axes.imshow(
        table, aspect="auto", cmap=colors, vmin=low, vmax=high, interpolation="nearest",
        extent=(-0.5, columns - 0.5, rows * stride - 0.5, -0.5),
    )  # fmt: skip
    axes.grid(visible=False)
    figure.colorbar(image, ax=axes, label=label, pad=0.02).outline.set_visible(False)


def _overview(count: int, title: str, note: str) -> tuple[Figure, list[Axes]]:
    """A sheet with so many panels, the first of them large."""
    columns = min(3, max(1, count - 1))
    rows = -(-(count - 1) // columns)
    figure = _sheet(4.9 + 2.7 * rows, title, note)
    grid = _grid(figure, (1.75,) + (1.0,) * rows, (1.0,) * columns)
    places = [grid[0, :], *(grid[1 + n // columns, n % columns] for n in range(count - 1))]
    return figure, [figure.add_subplot(place) for place in places]


def _pair(title: str, step: int, projection: str | None = None) -> tuple[Figure, Axes, Axes]:
    """A sheet with two panels side by side."""
    figure = _sheet(5.0, title, f"step {step:,}")
    grid = _grid(figure, (1.0,), (1.0, 1.25))
    left = figure.add_subplot(grid[0], projection=projection)
    return figure, left, figure.add_subplot(grid[1])


def _sheet(height: float, title: str, note: str) -> Figure:
    figure = Figure(figsize=(_WIDTH, height))
    figure.text(
        0.25 / _WIDTH, 1 - 0.18 / height, f"{title}   ·   {note}",
        va="top", fontsize=14, fontweight="bold",
    )  # fmt: skip
    return figure


def _grid(
    figure: Figure, heights: Sequence[float], widths: Sequence[float], down: float = _DOWN
) -> GridSpec:
    """Places for panels of these proportions, with the same gaps whatever the sheet's size."""
    width, height = figure.get_size_inches()
    rows, columns = len(heights), len(widths)
    panel_width = (width - _LEFT - _RIGHT - (columns - 1) * _ACROSS) / columns
    panel_height = (height - _TOP - _BOTTOM - (rows - 1) * down) / rows
    return figure.add_gridspec(
        rows, columns, height_ratios=heights, width_ratios=widths,
        left=_LEFT / width, right=1 - _RIGHT / width, wspace=_ACROSS / panel_width,
        bottom=_BOTTOM / height, top=1 - _TOP / height, hspace=down / panel_height,
    )  # fmt: skip


def _last(values: Array) -> float:
    return float(values[np.isfinite(values)][-1])


def _tick(value: float, _position: float) -> str:
    return f"{value:g}" if value < 1000 else _THOUSANDS(value)


def _short(value: float) -> str:
    return f"{value:.4g}"
