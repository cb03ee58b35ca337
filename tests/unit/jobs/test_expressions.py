"""What a job may look for in the output of its program."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.model.expressions import Expression, Expressions
from jobs.model.spec import SUBMITTED, JobSpec


def submitted(progress: dict[str, Any], **fields: Any) -> JobSpec:
    job = {"name": "a", "command": ["t"], "progress": progress, **fields}
    return JobSpec.model_validate_json(json.dumps(job), context=SUBMITTED)


def refusal(progress: dict[str, Any], **fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        submitted(progress, **fields)
    (error,) = caught.value.errors()
    return error["msg"].removeprefix("Value error, ")


def test_a_total_may_be_a_number() -> None:
    spec = submitted({"step": r"step (\d+)", "total": 1000, "train/loss": r"loss ([\d.]+)"})
    found = Expressions.of(spec.progress)
    assert found.total == 1000
    assert list(found.values) == ["train/loss"]
    assert Expressions.of({"step": r"(\d+)/", "total": r"/(\d+)"}).total.number(b"3/7") == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("progress", "says"),
    [
        ({"loss": r"loss (\S+)"}, "progress needs `step`"),
        ({"step": r"step \d+"}, "has no groups"),
        ({"step": r"(iter|step) (\d+)"}, "has 2 groups"),
        ({"step": r"step (\d+"}, "missing )"),
        ({"step": r"(?=step)(\d+)"}, "no expression that RE2 reads"),
        ({"step": r"(\d+) \1"}, "no expression that RE2 reads"),
        ({"step": r"((?:a{900}){900})"}, "no expression that RE2 reads"),
        ({"step": r"(\d+)", "timestamp": r"(\d+)"}, "the service's own"),
    ],
)
def test_an_expression_that_finds_no_number_is_refused(progress: dict[str, str], says: str) -> None:
    assert says in refusal(progress)


def test_names_that_no_curve_can_have_are_refused() -> None:
    assert refusal({"step": r"(\d+)", "a b": r"(\d+)"})
    assert refusal({"step": r"(\d+)", **{f"n{i}": r"(\d+)" for i in range(32)}})


def test_the_built_in_workload_counts_its_steps_itself() -> None:
    said = refusal({"step": r"(\d+)"}, command=None, train={"steps": 3})
    assert said.startswith("progress is for `command`")


def test_a_record_with_an_expression_of_another_version_can_be_read() -> None:
    text = json.dumps({"name": "a", "command": ["t"], "progress": {"step": "("}})
    assert JobSpec.model_validate_json(text).progress == {"step": "("}


@pytest.mark.parametrize(
    ("line", "number"),
    [
        ("step 12 x", 12),
        ("step 1,200", 1200),
        ("step 1e3", 1000),
        ("\xff step 7", 7),
        ("step -", None),
    ],
)
def test_numbers_are_read_as_people_write_them(line: str, number: float | None) -> None:
    assert Expression(r"step ([\d,.e-]+)").number(line.encode("latin1")) == number


def test_a_loss_may_be_no_number() -> None:
    found = Expression(r"loss (\S+)")
    assert math.isnan(found.number(b"loss nan") or 0)
    assert found.number(b"loss inf") == math.inf
    assert found.number(b"loss " + b"1" * 500) is None


@pytest.mark.parametrize(
    "text", [r"(a+)+$", r"(?:a|a)*(b)", r"(?:.*.*.*.*)=(\d+)", r"((?:a|aa)+)!"]
)
def test_no_expression_is_slow(text: str) -> None:
    """Python's own `re` takes longer than the universe is old for the first of them."""
    line = b"a" * 4096 + b"?"
    begun = time.process_time()
    Expression(text).number(line)
    assert time.process_time() - begun < 5
