"""Figures say what is there: no more, no less, and every text where it can be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from monitoring.arrays import Array
from monitoring.plots import figures
from monitoring.plots.curve_panels import name_resumes
from monitoring.plots.curves import Curve, Resume
from monitoring.plots.panels import THEME, Ticks, fit, short, text_width

NOISE = np.random.default_rng(0).normal(0, 0.2, 3000)
LOSS = 3 + 5 * np.exp(-np.arange(3000) / 500) + NOISE
LONG = "a rather long name of a metric gradient norm of block"


@pytest.fixture(autouse=True)
def theme() -> Iterator[None]:
    with rc_context(THEME):
        yield


def drawn(figure: Figure) -> Figure:
    FigureCanvasAgg(figure).draw()
    return figure


def training(
    values: Any, *others: Curve, step: int = 3000, resumes: Any = (), title: str = "run"
) -> Figure:
    loss = Curve.until(step, "loss", np.asarray(values, dtype=float))
    return drawn(figures.training_dynamics(step, [loss, *others], list(resumes), title))


def curve(name: str, values: Any, step: int = 3000) -> Curve:
    return Curve.until(step, name, np.asarray(values, dtype=float))


def runs(count: int, name: str = "run {}") -> list[tuple[str, list[Curve]]]:
    return [(name.format(n), [curve("loss", LOSS + n)]) for n in range(count)]


def waves(shape: tuple[int, int, int], value: float | None = None) -> dict[str, Array]:
    tokens, count, _ = shape
    random = np.random.default_rng(1)
    tables = {
        "base": random.uniform(0, 8, (tokens, count)),
        "phi": random.uniform(0, 6, (tokens, count)),
        "amplitudes": random.normal(0, 1, shape),
    }
    if value is not None:
        tables = {name: np.full_like(table, value) for name, table in tables.items()}
    return tables


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]  # type: ignore[union-attr]


def labels(axis: Any) -> list[str]:
    low, high = sorted(axis.get_view_interval())
    return [
        tick.label1.get_text() for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high
    ]


def resume_lines(axes: Axes) -> list[float]:
    return sorted(
        float(segment[0][0])
        for lines in axes.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
    )


def resume_names(axes: Axes) -> list[tuple[float, str]]:
    return [
        (text.xy[0], text.get_text())
        for text in axes.texts
        if hasattr(text, "xy") and text.get_text().startswith(("resume", "attempt"))
    ]


def test_resumes_are_drawn_in_every_panel_and_named_by_their_attempts_in_the_first() -> None:
    resumes = [Resume(1500, 2), Resume(700, 3), Resume(700, 4), Resume(2000)]
    figure = training(LOSS, curve("lr", LOSS), resumes=resumes)
    first, second = figure.axes
    assert resume_lines(first) == resume_lines(second) == [700, 1500, 2000]
    assert resume_names(first) == [(700, "attempts 3, 4"), (1500, "attempt 2"), (2000, "resume 4")]
    assert resume_names(second) == []


def test_no_curve_has_the_colour_of_the_resumes() -> None:
    resumes = [Resume(1000, 2)]
    curves = [curve("loss", LOSS), *(curve(f"m{n}", NOISE) for n in range(9))]
    figure = figures.training_dynamics(3000, curves, resumes, "run")
    for axes in figure.axes:
        [marks] = [lines for lines in axes.collections if isinstance(lines, LineCollection)]
        assert to_rgb(marks.get_color()[0]) not in {to_rgb(line.get_color()) for line in axes.lines}


def test_resumes_without_attempts_are_numbered_in_the_order_of_time() -> None:
    resumes = [Resume(1500), Resume(700), Resume(700)]
    assert name_resumes(resumes, 3000, 0) == [(700, "resumes 2, 3"), (1500, "resume 1")]


def test_a_resume_beyond_the_last_step_does_not_stretch_the_axis() -> None:
    [axes] = training([3.0, 2.0], step=1000, resumes=[Resume(5000), Resume(400)]).axes
    assert axes.get_xlim()[1] <= 1010
    assert resume_lines(axes) == [400]
    assert resume_names(axes) == [(400, "resume 2")]


def test_many_resumes_do_not_bury_the_loss() -> None:
    [axes] = training(LOSS, resumes=[Resume(step) for step in range(100, 3000, 60)]).axes
    assert len(resume_lines(axes)) == 49
    names = resume_names(axes)
    assert len(names) <= 12
    assert names[0][1] == "resumes 1\N{EN DASH}5"
    assert names[-1][1].endswith("49")


def test_names_of_resumes_do_not_overlap() -> None:
    [axes] = training(LOSS, resumes=[Resume(1500, 2), Resume(1510, 3), Resume(2990, 4)]).axes
    assert resume_names(axes) == [(1500, "attempts 2, 3"), (2990, "attempt 4")]
    right = axes.get_window_extent().x1
    assert all(text.get_window_extent().x1 <= right for text in axes.texts if text.get_rotation())


@pytest.mark.parametrize("value", [3e-4, 0.9, 0.1, 1234567.0, 0.0, -2.5, 1e30])
def test_a_constant_is_a_line_in_the_middle_with_short_labels(value: float) -> None:
    _, axes = training(LOSS, curve("constant", [value] * 300)).axes
    low, high = axes.get_ylim()
    assert (low + high) / 2 == pytest.approx(value, abs=1e-9)
    assert high - low >= 0.1 * abs(value)
    assert high > low
    assert all(len(label) <= 8 for label in labels(axes.yaxis))
    [line] = axes.lines
    assert np.ptp(np.asarray(line.get_ydata())) == 0


def test_long_names_of_metrics_stay_within_their_panels() -> None:
    figure = training(LOSS, *(curve(f"{LONG} {n}", 1e5 * LOSS) for n in range(6)))
    for axes in figure.axes[1:]:
        title = axes._left_title  # type: ignore[attr-defined]
        [value] = [text for text in axes.texts if text.get_text()]
        assert "…" in title.get_text()
        assert title.get_window_extent().x1 < value.get_window_extent().x0


def test_large_values_have_their_size_in_the_labels_and_none_beside_the_title() -> None:
    figure = training(
        LOSS, curve("tokens", np.arange(300) * 4096.0), curve("mixed", 1e30 * NOISE[:300])
    )
    _, tokens, mixed = figure.axes
    assert labels(tokens.yaxis)[-1].endswith("M")
    assert all(label == "0" or label.endswith("e29") for label in labels(mixed.yaxis))
    assert not any(axes.yaxis.get_offset_text().get_text() for axes in figure.axes)


def test_a_dollar_sign_in_a_name_is_one() -> None:
    figure = training(LOSS, curve("price_$_per_$\\token$", [1, 2, 3]))
    assert any(text.startswith("price $ per $") for text in texts(figure))


def test_a_long_title_gives_way_to_the_step() -> None:
    figure = training(LOSS, title="wave_rgd_qfe_lr0.001_cosine_decay_" * 5)
    [title] = figure.texts
    assert "…" in title.get_text()
    assert title.get_text().endswith("step 3,000")
    assert title.get_window_extent().x1 <= figure.bbox.x1


def test_a_single_value_stands_at_its_step() -> None:
    [axes] = training([3.2], step=1000).axes
    [line] = axes.lines
    assert list(np.asarray(line.get_xdata())) == [1000]
    assert labels(axes.xaxis)[0] == "0"
    assert "m" not in "".join(labels(axes.xaxis))
    [axes] = training([3.2], step=0).axes
    assert labels(axes.xaxis) == ["0"]


def test_an_empty_history_says_so() -> None:
    figure = training([], step=1000)
    assert "no data yet" in texts(figure)
    assert labels(figure.axes[0].xaxis) == labels(figure.axes[0].yaxis) == []


@pytest.mark.parametrize("count", [1, 2, 4, 16, 40])
def test_harmonics_are_counted_in_whole_numbers_that_do_not_touch(count: int) -> None:
    amplitudes = waves((30, 4, count))["amplitudes"]
    figure = drawn(figures.harmonics(7, 1, amplitudes))
    for axes in figure.axes[:2]:
        found = labels(axes.xaxis)
        assert all(label.isdecimal() for label in found)
        low, high = axes.get_xlim()
        boxes = [
            tick.label1.get_window_extent()
            for tick in axes.xaxis.get_major_ticks()
            if low <= tick.get_loc() <= high
        ]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_harmonics_of_zeros_stand_at_the_foot_of_their_panel() -> None:
    figure = drawn(figures.harmonics(7, 1, np.zeros((9, 4, 3))))
    assert figure.axes[0].get_ylim() == (0, 1)


def test_wave_packets_of_zeros_are_apart_from_one_another() -> None:
    figure = drawn(figures.wave_packets(7, 1, **waves((50, 8, 4), 0.0)))
    [axes] = figure.axes
    assert len(set(axes.get_yticks())) == 6
    assert "All amplitudes are 0" in texts(figure)


@pytest.mark.parametrize("name", ["frequencies", "phases", "harmonics"])
def test_one_wave_of_one_token_has_ticks_at_whole_numbers_only(name: str) -> None:
    tables = waves((1, 1, 1))
    table = {"frequencies": "base", "phases": "phi", "harmonics": "amplitudes"}[name]
    axes = drawn(getattr(figures, name)(7, 1, tables[table])).axes[1]
    assert all(label.isdecimal() for label in [*labels(axes.xaxis), *labels(axes.yaxis)])


def test_each_of_many_runs_looks_different_and_its_name_is_above_the_curves() -> None:
    figure = drawn(figures.comparison(runs(20)))
    [axes] = figure.axes
    averages = [line for line in axes.lines if line.get_alpha() is None]
    looks = {(line.get_color(), str(line._unscaled_dash_pattern)) for line in averages}  # type: ignore[attr-defined]
    assert len(looks) == len(averages) == 20
    title = axes._left_title.get_window_extent()  # type: ignore[attr-defined]
    named = [text for text in figure.texts if text.get_text().startswith("run ")]
    assert len(named) == 20
    assert all(text.get_window_extent().y0 >= title.y1 for text in named)


@pytest.mark.parametrize("count", [1, 2, 8, 100])
def test_long_names_of_runs_stay_on_the_sheet_and_off_one_another(count: int) -> None:
    name = "_wave_rgd_qfe_cosine_decay_" * 4
    figure = drawn(figures.comparison([(f"{name}{n}", [curve("loss", [n])]) for n in range(count)]))
    boxes = [text.get_window_extent() for text in figure.texts]
    assert all(box.x1 <= figure.bbox.x1 and box.y0 > figure.axes[0].bbox.y1 for box in boxes)
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[n + 1 :])


@pytest.mark.parametrize(("count", "said"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs")])
def test_runs_are_counted_in_english(count: int, said: str) -> None:
    assert f"Experiment comparison   ·   {said}" in texts(figures.comparison(runs(count)))


@pytest.mark.parametrize(
    "value",
    [
        *(np.nan, np.inf, 1.7e308, -1.7e308),
        *(pytest.param(value, marks=pytest.mark.thorough) for value in (1e30, 1e-300)),
    ],
)
def test_waves_of_any_value_are_drawn_and_those_that_are_not_finite_are_counted(
    value: float,
) -> None:
    tables = waves((9, 4, 3))
    for table in tables.values():
        table[0] = value
    counts = {"frequencies": 4, "phases": 4, "harmonics": 12}
    for name, table in zip(counts, tables.values(), strict=True):
        figure = drawn(getattr(figures, name)(7, 1, table))
        said = any(f"{counts[name]} not finite" in text for text in texts(figure))
        assert said is not np.isfinite(value)
    figure = drawn(figures.wave_packets(7, 1, **tables))
    assert any("20 not finite" in text for text in texts(figure)) is not np.isfinite(value)


def test_waves_without_a_finite_value_are_drawn_too() -> None:
    tables = waves((9, 4, 3), np.nan)
    draw: list[Callable[[], Figure]] = [
        lambda: figures.frequencies(7, 1, tables["base"]),
        lambda: figures.phases(7, 1, tables["phi"]),
        lambda: figures.harmonics(7, 1, tables["amplitudes"]),
        lambda: figures.wave_packets(7, 1, **tables),
    ]
    for each in draw:
        assert any("not finite" in text for text in texts(drawn(each())))


def test_curves_of_any_value_are_drawn_and_those_that_are_not_finite_are_counted() -> None:
    beyond = np.array([1.7e308, 1e308, -1.7e308] * 10)
    holes = np.where(np.arange(300) % 3, LOSS[:300], np.nan)
    figure = training(
        np.where(np.arange(3000) < 2900, LOSS, np.inf),
        curve("beyond", beyond), curve("up", np.abs(beyond)), curve("holes", holes),
        curve("tiny", [5e-324, 1e-300, 1.7e308]), curve("none", [np.nan] * 20),
    )  # fmt: skip
    said = [text for text in texts(figure) if "not finite" in text]
    assert said == ["100 not finite", "100 not finite", "no finite values, 20 not finite"]
    assert np.isfinite([axes.get_ylim() for axes in figure.axes]).all()


def test_a_value_between_two_holes_is_a_dot() -> None:
    sparse = np.where(np.arange(100) % 2, np.nan, np.arange(100.0))
    _, axes = training(LOSS, curve("sparse", sparse)).axes
    assert any(line.get_marker() == "." and len(line.get_xdata()) == 50 for line in axes.lines)  # type: ignore[arg-type]


def test_after_a_run_diverged_its_average_is_still_that_of_its_values() -> None:
    values = LOSS.copy()
    values[1000:1020] = 1e30
    [axes] = training(values).axes
    assert len(axes.lines) == 2
    average = np.asarray(axes.lines[-1].get_ydata(), dtype=float)
    assert np.abs(average[1500:] - LOSS[1500:]).max() < 1
    assert axes.get_yscale() == "log"


@pytest.mark.parametrize("spike", [1e9, -40.0, 40.0])
def test_a_spike_is_drawn_and_no_part_of_the_average(spike: float) -> None:
    values = LOSS[:300].copy()
    values[200] = spike
    [axes] = training(values).axes
    raw, average = (np.asarray(line.get_ydata(), dtype=float) for line in axes.lines)
    assert raw[200] == spike
    assert np.abs(average[190:210] - LOSS[190:210].mean()).max() < 0.5


def test_a_schedule_keeps_its_shape_and_a_metric_of_that_range_has_a_log_axis() -> None:
    cosine = 1e-3 * (1.0001 + np.cos(np.pi * np.arange(3000) / 3000)) / 2
    _, schedule, metric = training(LOSS, curve("learning_rate", cosine), curve("x", cosine)).axes
    assert (schedule.get_yscale(), metric.get_yscale()) == ("linear", "log")


def test_curves_that_are_equal_are_both_seen() -> None:
    rates = [curve("learning_rate", np.linspace(1, 0, 100)) for _ in range(2)]
    other = curve("learning_rate", np.linspace(2, 0, 100))
    figure = drawn(figures.comparison([(str(n), [c]) for n, c in enumerate([*rates, other])]))
    first, second, third = figure.axes[1].lines
    assert [line.is_dashed() for line in (first, second, third)] == [False, True, False]


def test_numbers_are_short_and_ticks_all_different() -> None:
    numbers = [0, 0.0003, 7.074e-5, 152_300, 1e6, 7.206e9, 999_999, 1e30, -1e30, -26.31]
    assert [short(number) for number in numbers] == [
        "0", "0.0003", "7.074e\N{MINUS SIGN}5", "152.3k", "1M", "7.206G", "1M", "1e30",
        "\N{MINUS SIGN}1e30", "\N{MINUS SIGN}26.31",
    ]  # fmt: skip
    assert Ticks().format_ticks([1e6 + 1, 1e6 + 2]) == ["1.000001M", "1.000002M"]
    assert Ticks().format_ticks([-0.1, 1e-17, 0.1])[1] == "0"


def test_a_shortened_text_keeps_both_ends_and_its_room() -> None:
    assert fit("loss", 2, 12) == "loss"
    shortened = fit("first " + "middle " * 99 + "last", 2, 12)
    assert shortened.startswith("first")
    assert shortened.endswith("last")
    assert text_width(shortened, 12) <= 2
