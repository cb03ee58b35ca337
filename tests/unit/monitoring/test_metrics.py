"""MetricsLogger: rows that survive, read back as they were, and form one curve after a resume."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from monitoring import MetricsLogger
from monitoring.metrics.downsample import read_curves
from monitoring.metrics.rows import RowFormat, decode

NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**70), 2**70)


@pytest.fixture
def logger(tmp_path: Path) -> MetricsLogger:
    return MetricsLogger(tmp_path / "logs")


def test_rows_are_in_the_file_when_the_call_returns(logger: MetricsLogger) -> None:
    logger.log_metrics(10, {"loss": 1.5, "learning_rate": 1e-05})
    [line] = logger.metrics_file.read_text().splitlines()
    row = json.loads(line)
    assert list(row) == ["step", "timestamp", "loss", "learning_rate"]
    assert (row["step"], row["loss"], row["learning_rate"]) == (10, 1.5, 1e-05)
    [text] = logger.training_log.read_text().splitlines()
    assert text.endswith("step 10 | loss 1.5 | learning_rate 1e-05")


@given(metrics=st.dictionaries(st.text().filter(lambda n: n not in ("step", "timestamp")), NUMBERS))
def test_every_finite_number_reads_back_in_all_digits(metrics: dict[str, Any]) -> None:
    line, _ = RowFormat(tuple(metrics)).lines(3, 1.0, b"now", tuple(metrics.values()))
    assert line.count(b"\n") == 1
    row = decode(line)
    del row["step"], row["timestamp"]
    assert row == metrics


def test_nan_and_infinity_are_valid_json_and_come_back(logger: MetricsLogger) -> None:
    logger.log_metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.0})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    json.loads(logger.metrics_file.read_text(), parse_constant=refuse)
    [row] = logger.load_metrics()
    assert math.isnan(row["a"])
    assert (row["b"], row["c"], row["d"]) == (math.inf, -math.inf, 1.0)


def test_tensors_and_numpy_scalars_are_taken_without_a_fuss(logger: MetricsLogger) -> None:
    logger.log_metrics(
        1,
        {
            "tensor": torch.tensor(0.1),
            "grad": torch.ones(1, requires_grad=True).sum(),
            "float32": np.float32(0.1),
            "float64": np.float64(0.1),
            "int64": np.int64(7),
            "flag": True,
            "none": None,
            "text": "warm-up",
            "list": [torch.tensor(1), 2],
        },
    )
    [row] = logger.load_metrics()
    assert row["tensor"] == torch.tensor(0.1).item()
    assert row["grad"] == 1.0
    assert row["float32"] == float(np.float32(0.1))
    assert (row["float64"], row["int64"]) == (0.1, 7)
    assert (row["flag"], row["none"], row["text"]) == (True, None, "warm-up")
    assert row["list"] == [1, 2]


def test_unflushed_rows_are_written_by_the_next_flush(logger: MetricsLogger) -> None:
    logger.log_metrics(1, {"loss": 1.0}, flush=False)
    assert not logger.metrics_file.exists()
    logger.log_metrics(2, {"loss": 2.0})
    logger.log_metrics(3, {"loss": 3.0}, flush=False)
    assert [row["step"] for row in logger.load_metrics()] == [1, 2, 3]


def test_steps_are_due_at_the_interval(tmp_path: Path) -> None:
    logger = MetricsLogger(tmp_path, log_interval=4)
    assert [step for step in range(10) if logger.should_log(step)] == [0, 4, 8]
    with pytest.raises(ValueError, match="at least 1"):
        MetricsLogger(tmp_path, log_interval=0)


def test_a_metric_cannot_take_a_name_that_every_row_has(logger: MetricsLogger) -> None:
    with pytest.raises(ValueError, match="'step'"):
        logger.log_metrics(1, {"step": 2})


def test_invalid_lines_are_skipped_with_their_numbers(
    logger: MetricsLogger, caplog: pytest.LogCaptureFixture
) -> None:
    logger.log_metrics(1, {"loss": 1.0})
    with logger.metrics_file.open("a") as file:
        file.write('{"step": 2, "lo\n[1]\n\n')
    logger.log_metrics(3, {"loss": 3.0})
    assert [row["step"] for row in logger.load_metrics()] == [1, 3]
    warnings = [record.getMessage() for record in caplog.records]
    assert [f"line {number}" in warning for number, warning in enumerate(warnings, 2)] == [True] * 3


def test_a_torn_last_line_spoils_no_row_after_it(tmp_path: Path) -> None:
    first = MetricsLogger(tmp_path)
    first.log_metrics(1, {"loss": 1.0})
    with first.metrics_file.open("a") as file:
        file.write('{"step": 2, "loss": 0.')  # a power cut
    second = MetricsLogger(tmp_path)
    assert second.get_latest_step() == 1
    second.log_metrics(2, {"loss": 2.0})
    assert [row["step"] for row in second.load_metrics()] == [1, 2]


def test_the_latest_step_is_read_from_the_end(logger: MetricsLogger) -> None:
    assert logger.get_latest_step() == 0, "as the specification has it"
    logger.log_metrics(5, {"loss": 1.0})
    assert logger.get_latest_step() == 5
    with logger.metrics_file.open("a") as file:
        file.write("x" * 300_000 + "\n")
    assert logger.get_latest_step() == 5


def test_the_summary_has_the_numbers_of_every_metric(logger: MetricsLogger) -> None:
    assert logger.get_metrics_summary()["total_steps"] == 0
    for step, loss in [(0, 4.0), (10, 2.0), (20, math.nan), (30, 3.0)]:
        logger.log_metrics(step, {"loss": loss, "note": "x"})
    summary = logger.get_metrics_summary()
    assert (summary["total_steps"], summary["first_step"], summary["last_step"]) == (4, 0, 30)
    assert (summary["loss_min"], summary["loss_max"], summary["loss_mean"]) == (2.0, 4.0, 3.0)
    assert summary["loss_final"] == 3.0
    assert not any(name.startswith("note") for name in summary)


def test_a_resume_moves_the_rows_beyond_its_step(logger: MetricsLogger) -> None:
    for step in range(10):
        logger.log_metrics(step, {"loss": float(step)})
    assert logger.rewind(6) == 3
    for step in range(7, 9):
        logger.log_metrics(step, {"loss": -float(step)})
    assert [row["step"] for row in logger.load_metrics()] == list(range(9))
    assert logger.rewind(7) == 1
    superseded = logger.metrics_file.with_name("metrics.superseded.jsonl")
    moved = [json.loads(line)["loss"] for line in superseded.read_text().splitlines()]
    assert moved == [7.0, 8.0, 9.0, -8.0]
    resumes = logger.metrics_file.with_name("resumes.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in resumes] == [6, 7]


def test_a_resume_that_the_service_has_noted_already_is_noted_once(
    logger: MetricsLogger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in range(10):
        logger.log_metrics(step, {"loss": float(step)})
    logger.close()
    assert MetricsLogger(logger.log_dir).rewind(6, attempt=2) == 3
    monkeypatch.setenv("SPECTRAIN_ATTEMPT", "2")
    assert logger.rewind(6) == 0
    monkeypatch.setenv("SPECTRAIN_ATTEMPT", "3")
    assert logger.rewind(6) == 0
    notes = logger.metrics_file.with_name("resumes.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in notes]
    assert [(note["step"], note["attempt"]) for note in found] == [(6, 2), (6, 3)]


def test_a_fresh_start_moves_every_row(logger: MetricsLogger) -> None:
    assert logger.rewind(-1) == 0
    for step in range(3):
        logger.log_metrics(step, {"loss": 1.0})
    assert logger.rewind(-1) == 3
    assert logger.load_metrics() == []


@pytest.mark.parametrize("step", [2, 4, 7, 9])
def test_a_rewind_killed_half_way_repeats_nothing_whatever_the_next_goes_back_to(
    logger: MetricsLogger, step: int
) -> None:
    for again in (3, 10):
        logger.rewind(-1)
        for number in range(again):
            logger.log_metrics(number, {"loss": float(number)})
    before = logger.metrics_file.read_bytes()
    logger.rewind(4)
    logger.metrics_file.write_bytes(before)  # killed between the two files
    assert logger.rewind(step) == 9 - step
    superseded = logger.metrics_file.with_name("metrics.superseded.jsonl")
    moved = [json.loads(line)["step"] for line in superseded.read_text().splitlines()]
    assert moved == [*range(3), *range(step + 1, 10)]
    assert [row["step"] for row in logger.load_metrics()] == list(range(step + 1))


def test_a_torn_line_that_a_resume_moves_spoils_no_row_of_the_next(logger: MetricsLogger) -> None:
    for step in range(3):
        logger.log_metrics(step, {"loss": 1.0})
    with logger.metrics_file.open("a") as file:
        file.write('{"step": 3, "ti')  # a power cut
    assert logger.rewind(1) == 2
    for step in (2, 3):
        logger.log_metrics(step, {"loss": 2.0})
    assert logger.rewind(1) == 2
    superseded = logger.metrics_file.with_name("metrics.superseded.jsonl").read_text()
    first, torn, *again = superseded.splitlines()
    assert (json.loads(first)["loss"], torn) == (1.0, '{"step": 3, "ti')
    assert [json.loads(line)["loss"] for line in again] == [2.0, 2.0]


@pytest.mark.parametrize("step", [7, 7.0, np.int64(7), np.float32(7), torch.tensor(7)])
def test_a_step_may_be_any_whole_number(logger: MetricsLogger, step: Any) -> None:
    assert not logger.should_log(step)
    logger.log_metrics(step, {"loss": 1.0})
    logger.log_metrics(step, {"loss": torch.tensor(1.0)})
    assert [row["step"] for row in logger.load_metrics()] == [7, 7]
    assert logger.rewind(step) == 0


@pytest.mark.parametrize("step", [7.5, math.nan, "7", None, torch.ones(2)])
def test_no_other_step_is_taken(logger: MetricsLogger, step: Any) -> None:
    with pytest.raises(ValueError, match="whole number"):
        logger.log_metrics(step, {"loss": 1.0})


def test_an_integer_beyond_every_float_is_logged(logger: MetricsLogger) -> None:
    logger.log_metrics(1, {"loss": 1.0, "large": 10**400})
    logger.log_metrics(2, {"loss": 2.0, "large": 5})
    assert [row["large"] for row in logger.load_metrics()] == [10**400, 5]
    summary = logger.get_metrics_summary()
    assert (summary["large_max"], summary["large_final"]) == (5, 5)
    assert read_curves(logger.metrics_file)["large"].values == [5.0]


def test_a_failing_disk_does_not_end_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "logs").write_text("a file where the directory should be")
    logger = MetricsLogger(tmp_path / "logs")
    for step in range(5):
        logger.log_metrics(step, {"loss": 1.0})
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2  # two files
    (tmp_path / "logs").unlink()
    logger.log_metrics(5, {"loss": 1.0})
    assert [row["step"] for row in logger.load_metrics()] == list(range(6))


@pytest.mark.parametrize("line", ["[" * 100_000, '{"step": 2, "x": ' * 100_000])
def test_a_line_nested_too_deeply_is_skipped_like_any_other_invalid_one(
    logger: MetricsLogger, caplog: pytest.LogCaptureFixture, line: str
) -> None:
    logger.log_metrics(1, {"loss": 1.0})
    with logger.metrics_file.open("a") as file:
        file.write(line + "\n")
    assert logger.get_latest_step() == 1
    logger.log_metrics(3, {"loss": 3.0})
    assert [row["step"] for row in logger.load_metrics()] == [1, 3]
    assert "line 2 is invalid" in caplog.text
    assert read_curves(logger.metrics_file)["loss"].steps == [1, 3]
    assert logger.rewind(3) == 1
    assert [row["step"] for row in logger.load_metrics()] == [1, 3]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats()
    | st.sampled_from(["NaN", "-Infinity", "\\NaN", "\\\\Infinity", "\\"])
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)  # fmt: skip


@given(value=VALUES)
def test_whatever_json_can_hold_reads_back_nan_and_the_text_of_it_too(value: Any) -> None:
    line, _ = RowFormat(("metric",)).lines(3, 1.0, b"now", (value,))

    json.loads(line, parse_constant=pytest.fail)
    # As text, in which NaN is like NaN.
    assert repr(decode(line)["metric"]) == repr(value)


def test_a_tensor_of_several_values_reads_back(logger: MetricsLogger) -> None:
    logger.log_metrics(1, {"norms": torch.tensor([1.0, math.nan, -math.inf])})
    [row] = logger.load_metrics()
    assert repr(row["norms"]) == "[1.0, nan, -inf]"


def test_rows_of_older_versions_read_back() -> None:
    row = decode('{"step": 1, "timestamp": 0.5, "a": "NaN", "b": "-Infinity", "c": "warm"}')
    assert repr(row["a"]) == "nan"
    assert (row["b"], row["c"]) == (-math.inf, "warm")


def test_any_text_is_one_line_for_people(logger: MetricsLogger) -> None:
    text = "half a pair \ud83d,\nand a second line"
    logger.log_metrics(1, {"text": text, "loss": 1.0})
    [line] = logger.training_log.read_text().splitlines()
    assert line.endswith("text half a pair \\ud83d,\\nand a second line | loss 1")
    assert logger.load_metrics()[0]["text"] == text
