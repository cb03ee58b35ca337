"""How long jobs take, and when the next one starts, as far as that can be known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.forecast.facts import Experience, Facts
from jobs.forecast.line import seconds_until_start
from jobs.model.spec import JobSpec


def fields(progress: dict[str, Any] | None = None, **given: Any) -> dict[str, str | None]:
    spec = JobSpec.model_validate({"name": "a", **given})
    return {
        "spec": spec.model_dump_json(),
        "progress": json.dumps(progress) if progress else "",
        "run_seconds": "0",
        "attempt": "1",
        "attempt:1": json.dumps({"started_at": 1000.0}),
    }


def train(steps: int, progress: dict[str, Any] | None = None) -> dict[str, str | None]:
    return fields(progress, train={"steps": steps})


def program(progress: dict[str, Any] | None = None) -> dict[str, str | None]:
    return fields(progress, command=["true"])


HALF: dict[str, Any] = {
    "first_step": 0, "step": 10, "step_seconds": 20.0, "first_step_seconds": 3.0,
}  # fmt: skip


def test_a_slot_that_gets_free_takes_the_first_of_the_line() -> None:
    assert seconds_until_start([0.0], []) == 0.0
    assert seconds_until_start([30.0, 10.0], []) == 10.0
    assert seconds_until_start([30.0, 10.0], [5.0]) == 15.0
    assert seconds_until_start([30.0, 10.0], [5.0, 100.0]) == 30.0
    assert seconds_until_start([30.0, 10.0], [5.0, 100.0, 1.0]) == 31.0
    assert seconds_until_start([10.0, 10.0], [10.0, 10.0], more=4) == 20.0 + 20.0


def test_what_cannot_be_known_is_not_guessed() -> None:
    assert seconds_until_start([], []) is None
    assert seconds_until_start([None], []) is None
    assert seconds_until_start([None, 5.0], []) == 5.0, "the other slot is known"
    assert seconds_until_start([None, 5.0], [None]) is None
    assert seconds_until_start([5.0], [None], more=3) is None


def test_steps_of_the_built_in_workload_take_as_long_as_those_of_the_same_model() -> None:
    known = Experience()
    assert known.left_of_waiting(Facts.of(train(100))) is None
    known.add(Facts.of(train(50, HALF), now=1050.0), has_ended=False)
    assert known.left_of_waiting(Facts.of(train(100))) == 3.0 + 100 * 2.0
    other = fields(train={"steps": 100, "model": {"num_layers": 12}})
    assert known.left_of_waiting(Facts.of(other)) is None


def test_a_job_that_was_interrupted_goes_on_at_its_own_pace() -> None:
    assert Experience().left_of_waiting(Facts.of(train(100, HALF))) == 3.0 + 89 * 2.0


def test_a_running_job_says_itself_how_long_it_takes() -> None:
    seen = HALF | {"seconds_left": 7.5}
    assert Experience().left_of_running(Facts.of(train(100, seen), now=1050.0)) == 7.5
    infinite = HALF | {"seconds_left": "Infinity"}
    assert Facts.of(train(100, infinite), now=1050.0).left is None


def test_a_program_without_steps_takes_as_long_as_those_of_its_name() -> None:
    known = Experience()
    for seconds in ("100", "300", "120"):
        known.add(Facts.of(program() | {"run_seconds": seconds}), has_ended=True)
    assert known.left_of_waiting(Facts.of(program())) == 120.0
    assert known.left_of_running(Facts.of(program(), now=1050.0)) == 70.0
    late = Facts.of(program(), now=1500.0)
    assert known.left_of_running(late) is None, "it is like none of them"
    assert known.left_of_waiting(Facts.of(program() | {"run_seconds": "20"})) == 100.0


@pytest.mark.parametrize("broken", [{}, {"spec": None}, {"spec": "[]"}, {"spec": '{"train": 1}'}])
def test_a_record_that_cannot_be_read_is_refused(broken: dict[str, str | None]) -> None:
    with pytest.raises(ValueError, match=r"not a record|Expecting"):
        Facts.of(broken)
