"""What a person reads who got a specification wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from api.validation import field_errors
from jobs.model.spec import JobSpec
from workload.refusals import MAX_REFUSALS

GOOD: dict[str, Any] = {"name": "wave", "train": {}}


def refused(model: type[BaseModel], value: object) -> list[tuple[str, str, str]]:
    with pytest.raises(ValidationError) as caught:
        model.model_validate_json(json.dumps(value))
    return [(e.field, e.given, e.allowed) for e in field_errors(model, caught.value)]


@pytest.mark.parametrize(
    ("change", "field", "given", "allowed"),
    [
        ({"name": "a/b"}, "name", '"a/b"', "String should match pattern '^[a-z0-9_-]{1,63}$'"),
        ({"train": {"steps": "9"}}, "train.steps", '"9"', "a valid integer"),
        (
            {"train": {"model": {"d_model": 0}}},
            "train.model.d_model",
            "0",
            "greater than or equal to 1",
        ),
        ({"train": {"model": {"type": "rnn"}}}, "train.model.type", '"rnn"', "'wave' or "),
        (
            {"train": {"optimizer": {"betas": [0.9, "x"]}}},
            "train.optimizer.betas[1]",
            '"x"',
            "a valid number",
        ),
        ({"train": {"optimizer": {"lr": 0}}}, "train.optimizer.lr", "0", "greater than 0"),
        ({"train": {"stepz": 1}}, "train.stepz", "1", "unknown field; did you mean steps?"),
        ({"zzz": 1}, "zzz", "1", "unknown field; known are name, train, command"),
        ({"workdir": "."}, "workdir", '"."', "here it is `workspace: {path: .}`"),
        ({"num_gpus": 2}, "num_gpus", "2", "here it is `resources: {gpus: N}`"),
        ({"gpus": 2}, "gpus", "2", "here it is `resources: {gpus: N}`"),
        ({"envs": {}}, "envs", "{}", "here it is `env: {NAME: value}`"),
        (
            {"accelerators": "A100:8"},
            "accelerators",
            '"A100:8"',
            "here it is `resources: {gpus: N}`; `resources: {pool",
        ),
        ({"num_nodes": 2}, "num_nodes", "2", "nothing: one worker runs a job;"),
        (
            {"resources": {"num_gpus": 1}},
            "resources.num_gpus",
            "1",
            "here it is `gpus: 1`, a number;",
        ),
        ({"resources": {"accelerators": "H100"}}, "resources.accelerators", '"H100"', "here it is"),
        ({"resources": {"cpus": "4+"}}, "resources.cpus", '"4+"', "nothing: processors"),
        ({"resources": {"zzz": 1}}, "resources.zzz", "1", "unknown field; known are gpus"),
        ({"commands": ["a"]}, "commands", '["a"]', "here it is `command: "),
        ({"comand": ["a"]}, "comand", '["a"]', "unknown field; did you mean command?"),
        ({"max_duration": "2h"}, "max_duration", '"2h"', "here it is `limits: {run_seconds"),
        ({"file_mounts": {}}, "file_mounts", "{}", "here it is `inputs: "),
        ({"setup": "pip install ."}, "setup", '"pip install ."', "a list with an item for each"),
        ({"env": ["A=b"]}, "env", '["A=b"]', "variables by name: `env: {NAME: value}`"),
        ({"secrets": {"A": None}}, "secrets", '{"A": null}', "a list of names: `secrets: [NAME]`"),
        ({"resources": {"gpus": -1}}, "resources.gpus", "-1", "greater than or equal to 0"),
        ({"resources": {"pol": "a"}}, "resources.pol", '"a"', "unknown field; did you mean pool?"),
        ({"env": {"1A": "x"}}, "env.1A", '"1A"', "String should match pattern"),
        ({"labels": {"a": 3}}, "labels.a", "3", "a valid string"),
        ({"limits": {"run_seconds": 0}}, "limits.run_seconds", "0", "greater than 0"),
        ({"preemptible": 1}, "preemptible", "1", "a valid boolean"),
        (
            {"train": {"model": {"num_heads": 3}}},
            "train.model",
            '{"num_heads": 3}',
            "d_model (256) must be a multiple of num_heads (3)",
        ),
    ],
)
def test_an_error_names_the_field_what_was_given_and_what_is_allowed(
    change: dict[str, Any], field: str, given: str, allowed: str
) -> None:
    ((its_field, its_given, its_allowed),) = refused(JobSpec, GOOD | change)
    assert (its_field, its_given) == (field, given)
    assert its_allowed.startswith(allowed)


def test_a_missing_field_was_given_nothing() -> None:
    assert refused(JobSpec, {"train": {}})[0][:2] == ("name", "nothing")


def test_both_or_neither_kind_of_work_is_named() -> None:
    neither = refused(JobSpec, {"name": "a"})
    both = refused(JobSpec, GOOD | {"command": ["true"]})
    assert "exactly one of `train` and `command`; neither" in neither[0][2]
    assert "exactly one of `train` and `command`; both" in both[0][2]


def test_every_error_is_told_at_once() -> None:
    wrong = GOOD | {"priority": 11, "resources": {"gpus": -1, "pool": ""}}
    assert {e[0] for e in refused(JobSpec, wrong)} == {
        "priority",
        "resources.gpus",
        "resources.pool",
    }


def test_a_flood_of_errors_and_a_long_value_are_cut() -> None:
    errors = refused(JobSpec, GOOD | {f"x{i}": "y" * 10_000 for i in range(1000)})
    assert len(errors) == MAX_REFUSALS
    assert all(len(given) <= 80 for _, given, _ in errors)
