"""Long runs are read in few points, with every spike."""

import json
import math
import random
import tracemalloc
from pathlib import Path

import pytest

from monitoring.metrics.downsample import read_curves


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_few_rows_come_back_as_they_are(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"step": step, "timestamp": 1.5, "loss": 1 / (step + 3), "learning_rate": 1e-05 * step}
        for step in range(0, 500, 5)
    ]
    curves = read_curves(write(tmp_path / "m", rows))
    assert set(curves) == {"loss", "learning_rate"}
    assert curves["loss"].steps == [row["step"] for row in rows]
    assert curves["loss"].values == [row["loss"] for row in rows]
    assert curves["learning_rate"].values == [row["learning_rate"] for row in rows]


def test_smallest_and_largest_of_every_bucket_are_kept_exactly(tmp_path: Path) -> None:
    dice = random.Random(3)
    values = [dice.gauss(0, 1) * 10.0 ** dice.randint(-8, 8) for _ in range(20_000)]
    rows: list[dict[str, object]] = [{"step": n, "loss": v} for n, v in enumerate(values)]
    points = 200
    loss = read_curves(write(tmp_path / "m", rows), points=points)["loss"]
    width = len(values) // (points // 2)
    expected = set()
    for start in range(0, len(values), width):
        part = values[start : start + width]
        expected |= {(start + part.index(f(part)), f(part)) for f in (min, max)}
    assert list(zip(loss.steps, loss.values, strict=True)) == sorted(expected)
    assert len(loss.steps) <= points


def test_rows_of_several_shapes_and_broken_ones_are_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = []
    for step in range(3000):
        row: dict[str, object] = {"step": step, "timestamp": 0.5, "loss": step / 7, "lr_2e": 1e-9}
        if step % 25 == 0:
            row["val_loss"] = -float(step)
        if step % 100 == 50:
            row = {"lr_2e": 1e-9, "loss": step / 7, "step": step}  # another order
        if step == 7:
            row["loss"] = "NaN"
        lines.append(json.dumps(row))
    lines[11] = '{"step": 11, "timestamp": 0.5, "lo'
    lines[13] = '{"step": 13, "timestamp": 0.5, "loss": 1.2.3, "lr_2e": 1e-9}'
    path = tmp_path / "m"
    path.write_text("\n".join(lines))  # and no newline at the end
    curves = read_curves(path, points=10_000)
    good = [step for step in range(3000) if step not in (11, 13)]
    assert curves["loss"].steps == [step for step in good if step != 7]
    assert curves["loss"].values == [step / 7 for step in good if step != 7]
    assert curves["lr_2e"].steps == good
    assert curves["val_loss"].values == [-float(s) for s in range(0, 3000, 25) if s % 100 != 50]
    assert any("line 12" in record.getMessage() for record in caplog.records)


def test_an_absent_or_empty_file_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path / "absent") == {}
    (tmp_path / "empty").touch()
    assert read_curves(tmp_path / "empty") == {}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    row = json.dumps({"step": 0, "timestamp": 1.0, "loss": math.pi, "lr": 1e-3}) + "\n"
    path = tmp_path / "m"
    with path.open("w") as file:
        for step in range(200_000):
            file.write(row.replace("0", str(step), 1))
    tracemalloc.start()
    read_curves(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert path.stat().st_size > 13_000_000
    assert peak < 10_000_000


def test_values_that_differ_in_the_last_bit_only_are_told_apart(tmp_path: Path) -> None:
    dice = random.Random(5)
    values = [0.7]
    while len(values) < 500:
        values.append(math.nextafter(values[-1], 1))
    dice.shuffle(values)
    rows: list[dict[str, object]] = [{"step": n, "loss": v} for n, v in enumerate(values)]
    loss = read_curves(write(tmp_path / "m", rows), points=2)["loss"]
    places = sorted((values.index(value), value) for value in (min(values), max(values)))
    assert list(zip(loss.steps, loss.values, strict=True)) == places


def test_a_constant_metric_is_shown_where_its_buckets_begin(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"step": n, "loss": 0.12345678901234568} for n in range(100)]
    loss = read_curves(write(tmp_path / "m", rows), points=8)["loss"]
    assert (loss.steps, loss.values) == ([0, 25, 50, 75], [0.12345678901234568] * 4)


@pytest.mark.parametrize("name", ["a,b", "\u00e9", "E2E", 'say "1"', "50%", "e-4", "1\n2"])
def test_names_that_look_like_numbers_spoil_none(tmp_path: Path, name: str) -> None:
    path = tmp_path / "m"
    lines = [json.dumps({"step": step, name: step / 7, "b": 1e-7 * step}) for step in range(300)]
    path.write_text("\n".join(lines))
    curves = read_curves(path)
    assert set(curves) == {name, "b"}
    assert curves[name].values == [step / 7 for step in range(300)]
    assert curves["b"].values == [1e-7 * step for step in range(300)]


@pytest.mark.parametrize("number", ["1e5", "1E5", "1.5E-5", "-2e300", "1e-310", "1" * 25, "-0.0"])
def test_every_spelling_of_a_number_is_read(tmp_path: Path, number: str) -> None:
    path = tmp_path / "m"
    lines = [f'{{"step": {step}, "loss": {number}, "b": {step}.5}}\n' for step in range(50)]
    path.write_text("".join(lines))
    curves = read_curves(path)
    assert curves["loss"].values == [float(number)] * 50
    assert curves["b"].values == [step + 0.5 for step in range(50)]


@pytest.mark.parametrize("number", ["-", "", "+", ".", "-.", "1-2", "1.2.3", "--1", "1,2"])
def test_what_is_no_number_makes_its_line_invalid(
    tmp_path: Path, number: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "m"
    lines = [f'{{"step": {step}, "loss": {step}.25}}\n' for step in range(50)]
    lines[20] = f'{{"step": 20, "loss": {number}}}\n'
    path.write_text("".join(lines))
    good = [step for step in range(50) if step != 20]
    loss = read_curves(path)["loss"]
    assert (loss.steps, loss.values) == (good, [step + 0.25 for step in good])
    assert "line 21 is invalid" in caplog.text
