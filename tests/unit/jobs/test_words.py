"""The words of a command: numbers are text, and another form is answered with the list meant."""

from __future__ import annotations

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.model.record import job_from_hash
from jobs.model.spec import JobSpec
from jobs.model.words import SUBMITTED


def submitted(**fields: Any) -> JobSpec:
    return JobSpec.model_validate_json(json.dumps({"name": "a", **fields}), context=SUBMITTED)


def refusal(**fields: Any) -> tuple[tuple[int | str, ...], str]:
    """Where and why the only error is."""
    with pytest.raises(ValidationError) as caught:
        submitted(**fields)
    (error,) = caught.value.errors()
    return error["loc"], error["msg"].removeprefix("Value error, ")


def test_numbers_in_commands_and_variables_are_their_text() -> None:
    spec = submitted(command=["t", 1, -2, 0.001, 1e-5, 1.0, True, False, "x"],
                     env={"A": 0.5, "B": False, "C": 10**30})  # fmt: skip
    assert spec.command == ["t", "1", "-2", "0.001", "1e-05", "1.0", "true", "false", "x"]
    assert spec.env == {"A": "0.5", "B": "false", "C": "1" + "0" * 30}


@pytest.mark.parametrize("value", [None, [], ["a"], {}, {"a": 1}])
def test_what_has_no_text_is_refused(value: object) -> None:
    assert refusal(command=["t", value])[0] == ("command", 1)
    assert refusal(command=["t"], env={"A": value})[0] == ("env", "A")


@pytest.mark.parametrize("text", ["python train.py --lr 0.1", " python  'a b.py' ", "./run.sh x"])
def test_a_command_line_is_answered_with_its_list(text: str) -> None:
    words = json.dumps(shlex.split(text))
    assert refusal(command=text) == (("command",), f"a list with an item for each word: {words}")
    assert words in refusal(command=[text])[1]


def test_the_other_words_stay_in_the_answer() -> None:
    where, why = refusal(command=["python train.py", "--lr", 1])
    assert where == ("command",)
    assert why.endswith('["python", "train.py", "--lr", "1"]')


@pytest.mark.parametrize(
    "command", [["/my tools/run", "x"], ["./my run", "x"], ["a", "b c"], [" "]]
)
def test_a_path_with_spaces_is_a_word(command: list[str]) -> None:
    assert submitted(command=command).command == command


@pytest.mark.parametrize(
    "text",
    ["a | b", "cd x && python t.py", "LR=1 python t.py", "t > log", "t $HOME", 't "$HOME"',
     "a; b", "ls *.py", "echo `date`", "a\nb", "t ~/x"],
)  # fmt: skip
def test_a_shell_script_is_told_where_it_goes(text: str) -> None:
    for command in (text, [text]):
        _, why = refusal(command=command)
        assert "`run`" in why
        assert json.dumps(["bash", "-c", text]) in why


@pytest.mark.parametrize("text", ["t --x 'a|b'", 't --x "a|b"', "t --pattern '$x'", "t a=b"])
def test_quoted_signs_make_no_shell_script(text: str) -> None:
    assert json.dumps(shlex.split(text)) in refusal(command=text)[1]


@given(st.text())
def test_every_text_is_refused_as_a_command_with_a_sentence(text: str) -> None:
    where, why = refusal(command=text)
    assert where == ("command",)
    assert why.startswith("a list ")
    assert len(why) < 500


def test_a_record_that_an_earlier_version_accepted_is_still_read() -> None:
    spec = {"name": "a", "command": ["python train.py"]}
    fields = {"id": "a-1", "spec": json.dumps(spec), "state": "queued", "sequence": "1",
              "priority": "5", "submitted_at": "0", "queued_at": "0"}  # fmt: skip
    assert job_from_hash(fields).spec.command == ["python train.py"]
