"""Long runs are read in few points, with every spike."""

import json
import math
import random
import tracemalloc
from pathlib import Path

import pytest

from monitoring.reader import read_curves


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
