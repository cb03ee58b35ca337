"""What a job may look like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from jobs.model.change import JobChange
from jobs.model.record import new_job_id
from jobs.model.spec import JobSpec


@pytest.mark.parametrize(
    ("change", "where", "text"),
    [
        ({"colour": "red"}, ("colour",), "Extra inputs"),
        ({"train": {}}, (), "exactly one"),
        ({"command": None}, (), "exactly one"),
        ({"command": []}, ("command",), "at least 1"),
        ({"name": "a/b"}, ("name",), "pattern"),
        ({"name": "A"}, ("name",), "pattern"),
        ({"name": "a" * 64}, ("name",), "pattern"),
        ({"resources": {"gpus": -1}}, ("resources", "gpus"), "greater than or equal to 0"),
        ({"resources": {"gpus": "1"}}, ("resources", "gpus"), "valid integer"),
        ({"priority": 10}, ("priority",), "less than or equal to 9"),
        ({"env": {"SPECTRAIN_ATTEMPT": "7"}}, (), "the worker sets it"),
        ({"env": {"A=B": "7"}}, ("env", "A=B", "[key]"), "pattern"),
        ({"stop_signal": "SIGKILL"}, ("stop_signal",), "SIGTERM', 'SIGINT'"),
        ({"command": None, "train": {}, "stop_signal": "SIGINT"}, (), "train` saves on SIGTERM"),
        ({"command": ["a\0b"]}, ("command", 0), "pattern"),
        ({"retry": {"on_exit_codes": [0]}}, ("retry", "on_exit_codes", 0), "equal to 1"),
        ({"retry": {"not_on_exit_codes": [256]}}, ("retry", "not_on_exit_codes", 0), "255"),
        ({"retry": {"on_exit_codes": []}}, ("retry", "on_exit_codes"), "at least 1"),
        (
            {"retry": {"on_exit_codes": [3, 75], "not_on_exit_codes": [1, 75]}},
            ("retry",),
            "on_exit_codes and not_on_exit_codes both have 75",
        ),
        ({"retry": {"on_exit_codes": [75], "max_failures": 0}}, ("retry",), "nothing is retried"),
    ],
)
def test_impossible_jobs_are_refused_with_the_path_of_the_field(
    change: dict[str, object], where: tuple[str | int, ...], text: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        JobSpec.model_validate({"name": "a", "command": ["true"], **change})
    (error,) = caught.value.errors()
    assert error["loc"] == where
    assert text in error["msg"]


def test_ids_say_whose_they_are_and_differ() -> None:
    ids = {new_job_id("wave") for _ in range(1000)}
    assert len(ids) == 1000
    assert all(job_id.startswith("wave-") for job_id in ids)


def numbers_in(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a JSON schema with its path."""
    if isinstance(schema, list):
        for item in schema:
            yield from numbers_in(item, path)
    elif isinstance(schema, dict):
        if schema.get("type") in ("integer", "number"):
            yield path, schema
        for name, item in schema.items():
            yield from numbers_in(item, f"{path}.{name}")


@pytest.mark.parametrize("model", [JobSpec, JobChange])
def test_every_number_has_a_floor_and_a_ceiling(model: type[BaseModel]) -> None:
    found = dict(numbers_in(model.model_json_schema()))
    assert len(found) > 2
    floor, ceiling = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}
    assert [p for p, n in found.items() if not (floor & n.keys() and ceiling & n.keys())] == []


@pytest.mark.parametrize(
    "change",
    [
        {"limits": {"run_seconds": 1e308}},
        {"limits": {"stall_seconds": 1e12}},
        {"checkpoint": {"every_steps": 2**63}},
        {"checkpoint": {"every_seconds": 1e300}},
    ],
)
def test_numbers_without_a_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="less than or equal to"):
        JobSpec.model_validate({"name": "a", "command": ["true"], **change})
