"""`command`, `run`, and what an attempt runs that has something to go on from."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from jobs.model.spec import JobSpec
from jobs.model.words import SUBMITTED


def submitted(**fields: Any) -> JobSpec:
    return JobSpec.model_validate_json(json.dumps({"name": "a", **fields}), context=SUBMITTED)


def program(resumed: bool, **fields: Any) -> list[str]:
    return submitted(**fields).program(resumed=resumed)


@pytest.mark.parametrize(
    ("fields", "first", "resumed"),
    [
        ({"command": ["t", "x"]}, ["t", "x"], ["t", "x"]),
        ({"command": ["t"], "resume_args": ["--resume", 1]}, ["t"], ["t", "--resume", "1"]),
        ({"command": ["t"], "resume_command": ["r"]}, ["t"], ["r"]),
        ({"run": "a | b\n"}, *[["bash", "-euo", "pipefail", "-c", "a | b\n"]] * 2),
        ({"run": "a", "resume_command": ["r"]}, ["bash", "-euo", "pipefail", "-c", "a"], ["r"]),
    ],
)
def test_an_attempt_runs_what_the_job_says(
    fields: dict[str, Any], first: list[str], resumed: list[str]
) -> None:
    assert program(False, **fields) == first
    assert program(True, **fields) == resumed


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "exactly one of `train` and `command`; neither was given"),
        ({"command": ["t"], "run": "t"}, "give `command` or `run`"),
        ({"train": {}, "run": "t"}, "exactly one of `train` and `command`; both was given"),
        ({"command": ["t"], "resume_command": ["t"], "resume_args": ["t"]}, "not both"),
        ({"train": {}, "resume_args": ["t"]}, "`train` resumes by itself"),
        ({"train": {}, "resume_when": ["t"]}, "`train` resumes by itself"),
        ({"run": "t", "resume_args": ["-r"]}, "resume_args is for `command`"),
        ({"command": ["sh", "-c", "t"], "resume_args": ["-r"]}, "would be $0"),
        ({"command": ["t"], "resume_args": "--resume 1"}, '["--resume", "1"]'),
        ({"command": ["t"], "resume_args": ["--ckpt_path last"]}, '["--ckpt_path", "last"]'),
        ({"command": ["t"], "resume_command": ["t -r"]}, '["t", "-r"]'),
        ({"command": ["t"], "resume_args": []}, "at least 1 item"),
        ({"run": ""}, "at least 1 character"),
        ({"run": 5}, "valid string"),
        ({"run": "x" * 32_768}, "at most 32767"),
        ({"run": "ls $(SPECTRAIN_RUN_DIR)"}, "write $SPECTRAIN_RUN_DIR in place of $("),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        submitted(**fields)
    (error,) = caught.value.errors()
    assert says in error["msg"]


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ["sh", "-c", 't "$@"', "sh"], "resume_args": ["-r"]},
        {"command": ["python", "-c", "pass"], "resume_args": ["-r"]},
        {"command": ["t"], "resume_args": ["--text=a b"]},
        {"command": ["t"], "resume_args": ["a b"]},
        {"run": "x=$(date) y=$((1 + 2)) z=$SPECTRAIN_RUN_DIR z=${SPECTRAIN_RUN_DIR}"},
    ],
)
def test_what_makes_sense_is_accepted(fields: dict[str, Any]) -> None:
    assert submitted(**fields)
