"""The figures of a run, in a dark theme. They do not change matplotlib's settings.

Every function takes numpy arrays and gives a figure; nothing here needs a display, torch or
pyplot. The figures of a model show every `stride`-th token. Values that are not finite, as a run
that diverges has them, are left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from monitoring.arrays import Array
from monitoring.files import temporary
from monitoring.plots.curve_panels import draw_comparison, draw_curve, key, key_height
from monitoring.plots.curves import Curve, Resume
from monitoring.plots.panels import (
    COLORS,
    TEXT,
    THEME,
    Ticks,
    clipped,
    few_ticks,
    finite,
    grid,
    heatmap,
    not_finite,
    opened,
    overview,
    pair,
    say,
    sheet,
    short,
    whole_numbers,
)

_FAST = 3  # compression level, of 9: half the time for a tenth more bytes
_WITH_CAPS = 16  # harmonics; with more there is no room for the caps of error bars


def training_dynamics(
    step: int, curves: Sequence[Curve], resumes: Sequence[Resume], title: str
) -> Figure:
    """One panel for each curve, the loss first and large, with resumes marked.

    `resumes` are in the order of time; those without an attempt's number are numbered in it.
    """
    figure, panels = overview(len(curves), title, f"step {step:,}")
    for index, (axes, curve) in enumerate(zip(panels, curves, strict=True)):
        color = COLORS[index % len(COLORS)]
        draw_curve(axes, step, curve, color, resumes, name_resumes=index == 0)
    return figure


def comparison(experiments: Sequence[tuple[str, Sequence[Curve]]]) -> Figure:
    """One panel for each metric, with the curves of all runs; the loss first and large."""
    names = ["loss"]
    for _, curves in experiments:
        names += [curve.name for curve in curves if curve.name not in names]
    note = "1 run" if len(experiments) == 1 else f"{len(experiments):,} runs"
    band = key_height(experiments)
    figure, panels = overview(len(names), "Experiment comparison", note, band)
    for axes, name in zip(panels, names, strict=True):
        draw_comparison(axes, name, [curves for _, curves in experiments])
    key(figure, experiments)
    return figure


def frequencies(step: int, stride: int, base: Array) -> Figure:
    """The distribution of base frequencies, and those of each token. `base`: (tokens, waves)."""
    figure, left, right = pair("Base frequencies", step)
    known = finite(base)
    if known.size:
        bins = min(80, max(10, int(2 * known.size**0.5)))
        counts, edges = np.histogram(known, bins, opened(float(known.min()), float(known.max())))
        left.stairs(counts, edges, fill=True, color=COLORS[0], alpha=0.9)
        left.axvline(float(np.median(known)), color=COLORS[1], linewidth=1.2)
        left.xaxis.set_major_locator(few_ticks())
        left.xaxis.set_major_formatter(Ticks())
        whole_numbers(left.yaxis)
        left.set_ylim(0, 1.05 * float(counts.max()))
    else:
        say(left, "no finite values")
    left.set(xlabel="frequency", ylabel="waves")
    middle = f"median {short(float(np.median(known)))}" if known.size else ""
    left.set_title(_listed("Distribution", middle, not_finite(base)))
    heatmap(figure, right, np.sort(base, axis=1), "viridis", "frequency", stride=stride)
    right.set(xlabel="wave, by frequency", ylabel="token")
    right.set_title("Frequencies of each token")
    return figure


def phases(step: int, stride: int, phi: Array) -> Figure:
    """The distribution of phases, and those of each token. `phi`: (tokens, waves), radians."""
    turned = np.mod(np.where(np.isfinite(phi), phi, np.nan), 2 * np.pi)
    known = finite(turned)
    figure, circle, right = pair("Phases", step, projection="polar")
    counts, edges = np.histogram(known, bins=48, range=(0, 2 * np.pi))
    circle.bar(
        (edges[:-1] + edges[1:]) / 2, counts, width=np.diff(edges), color=COLORS[4], alpha=0.85
    )
    circle.set_yticklabels([])
    # The length of the mean of all directions.
    alike = abs(np.exp(1j * known).mean()) if known.size else 0.0
    said = f"{100 * alike:.0f} % alike" if known.size else ""
    place = circle.get_position()
    circle.set_position((place.x0, place.y0, place.width, 0.9 * place.height))
    circle.set_title(_listed("Phases around the circle", said, not_finite(phi)), x=0, y=1.11)
    heatmap(
        figure, right, np.degrees(turned), "twilight", "phase (°)", limits=(0, 360), every=90,
        stride=stride,
    )  # fmt: skip
    right.set(xlabel="wave", ylabel="token")
    right.set_title("Phases of each token")
    return figure


def harmonics(step: int, stride: int, amplitudes: Array) -> Figure:
    """The amplitude of each harmonic. `amplitudes`: (tokens, waves, harmonics)."""
    strength = np.abs(clipped(amplitudes))
    known = np.isfinite(strength)
    count = strength.shape[2]
    figure, left, right = pair("Harmonic amplitudes", step)
    drawn = [number for number in range(count) if known[..., number].any()]
    if drawn:
        each = [strength[..., number][known[..., number]] for number in drawn]
        low, middle, high = np.transpose([np.percentile(values, [10, 50, 90]) for values in each])
        means = np.array([values.mean() for values in each])
        numbers = np.add(drawn, 1)
        left.bar(numbers, means, color=COLORS[2], alpha=0.55, width=0.7, label="mean")
        few = count <= _WITH_CAPS
        left.errorbar(
            numbers, middle, yerr=[middle - low, high - middle], fmt="o", color=COLORS[1],
            capsize=3 if few else 0, markersize=6 if few else 3, linewidth=1.2,
            label="median, 10 to 90 %",
        )  # fmt: skip
        left.set_ylim(0, 1.2 * max(float(high.max()), float(means.max())) or 1.0)
        left.set_xlim(0.4, count + 0.6)
        left.yaxis.set_major_formatter(Ticks())
        whole_numbers(left.xaxis)
        left.legend(loc="upper center", ncols=2, labelcolor=TEXT)
    else:
        say(left, "no finite values")
    left.set(xlabel="harmonic", ylabel="|amplitude|")
    left.set_title(_listed("Strength of each harmonic", not_finite(amplitudes)))
    seen = known.sum(axis=0)
    mean = np.where(known, strength, 0.0).sum(axis=0) / np.where(seen == 0, np.nan, seen)
    heatmap(figure, right, mean, "magma", "mean |amplitude|", first=1)
    right.set(xlabel="harmonic", ylabel="wave")
    right.set_title("By wave")
    return figure


def wave_packets(step: int, stride: int, base: Array, phi: Array, amplitudes: Array) -> Figure:
    """The packets of a few tokens over two periods of the unit wave.

    ψ(x) = Σ_w Σ_h a[w, h] · sin(2π · h · f[w] · x + φ[w]), the embedding's wave at position 0.
    """
    shown = min(6, len(base))
    tokens = np.linspace(0, len(base) - 1, shown).astype(int)
    base, phi, amplitudes = base[tokens], phi[tokens], amplitudes[tokens]
    lost = not_finite(base, phi, amplitudes)
    whole = np.isfinite(base) & np.isfinite(phi)
    base, phi = (np.where(whole, clipped(table), 0.0) for table in (base, phi))
    heard = whole[..., None] & np.isfinite(amplitudes)
    amplitudes = np.where(heard, clipped(amplitudes), 0.0)
    x = np.linspace(0, 2, 800)
    order = np.arange(1, amplitudes.shape[2] + 1)
    waves = []
    for frequency, phase, amplitude in zip(base, phi, amplitudes, strict=True):
        angle = 2 * np.pi * frequency[:, None] * order  # (W, H)
        angle = angle[..., None] * x + phase[:, None, None]  # (W, H, X)
        waves.append((amplitude[..., None] * np.sin(angle)).sum(axis=(0, 1)))
    highest = float(np.abs(waves).max())
    apart = 2.2 * highest or 1.0

    figure = sheet(1.7 + 0.9 * shown, "Wave packets of single tokens", f"step {step:,}")
    axes = figure.add_subplot(grid(figure, (1.0,), (1.0,))[0])
    levels = -apart * np.arange(shown)
    for number, (level, psi) in enumerate(zip(levels, waves, strict=True)):
        color = COLORS[number % len(COLORS)]
        axes.plot(x, level + psi, color=color, linewidth=1.3)
        axes.fill_between(x, level + psi, level, color=color, alpha=0.15, linewidth=0)
    axes.set_yticks(levels, labels=[str(token * stride) for token in tokens])
    if not highest:
        said = "All amplitudes are 0" if heard.any() else "No finite waves"
    elif shown == 1:
        said = f"The highest point is {short(highest)}"
    else:
        said = f"From one line to the next: {short(apart)}"
    axes.set_title(_listed(said, lost))
    axes.set(xlabel="position in periods of the unit wave", ylabel="token", xlim=(0, 2))
    axes.set_ylim(levels[-1] - 0.55 * apart, 0.55 * apart)
    return figure


def save(draw: Callable[..., Figure], path: Path, arguments: Mapping[str, Any]) -> None:
    """Draw a figure in the theme and write its PNG atomically. Raises OSError."""
    with rc_context(THEME):
        canvas = FigureCanvasAgg(draw(**arguments))
        draft = temporary(path)
        try:
            # Figure.savefig would draw twice, once for the layout.
            canvas.print_png(draft, pil_kwargs={"compress_level": _FAST})  # type: ignore[no-untyped-call]
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _listed(*parts: str) -> str:
    return ", ".join(part for part in parts if part)
