"""What a job may look like."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

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
        ({"env": {"SPECTRAIN_ATTEMPT": "7"}}, (), "the worker does"),
        ({"env": {"A=B": "7"}}, ("env", "A=B", "[key]"), "pattern"),
        ({"command": ["a\0b"]}, ("command", 0), "pattern"),
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
