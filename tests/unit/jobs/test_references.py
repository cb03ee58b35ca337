"""`$(NAME)` stands for a variable of the attempt, as in Kubernetes, and never silently for none."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jobs.model.references import (
    LONGEST,
    ExpansionError,
    UnknownVariableError,
    expand,
    expand_command,
    expand_variables,
)
from jobs.model.spec import JobSpec
from jobs.model.words import SUBMITTED

names = st.sampled_from(["A", "B", "LONG_NAME", "_x", "SPECTRAIN_RUN_DIR"])
plain = st.text(st.characters(exclude_characters="$"), max_size=8)
values = st.dictionaries(names, st.text(max_size=8))
texts = st.lists(
    st.one_of(plain, st.just("$"), names.map("$({})".format), names.map("$$({})".format)),
    max_size=8,
).map("".join)


def submitted(**fields: Any) -> JobSpec:
    text = json.dumps({"name": "a", **fields})
    return JobSpec.model_validate_json(text, context=SUBMITTED)


def refusal(**fields: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        submitted(**fields)
    (error,) = caught.value.errors()
    return str(error["msg"])


def by_hand(text: str, known: dict[str, str]) -> str:
    """What Kubernetes makes of a text, read a character at a time; other `$$` stay as they are."""
    out, at = "", 0
    while at < len(text):
        dollars = len(text[at:]) - len(text[at:].lstrip("$"))
        end = text.find(")", at + dollars)
        name = text[at + dollars + 1 : end]
        is_name = name.isidentifier() and name.isascii()
        if dollars and text[at + dollars : at + dollars + 1] == "(" and end > 0 and is_name:
            if dollars % 2 and name not in known:
                out += text[at : end + 1]
            else:
                out += "$" * (dollars // 2) + (known[name] if dollars % 2 else f"({name})")
            at = end + 1
        else:
            out, at = out + text[at : at + max(dollars, 1)], at + max(dollars, 1)
    return out


@given(texts, values)
def test_each_reference_is_its_value_and_nothing_else_changes(
    text: str, known: dict[str, str]
) -> None:
    assert expand(text, known.get) == by_hand(text, known)


@given(texts, values)
def test_any_text_can_be_written(text: str, known: dict[str, str]) -> None:
    escaped = re.sub(r"(\$+)(?=\([A-Za-z_][A-Za-z0-9_]*\))", r"\1\1", text)
    assert expand(escaped, known.get) == text


@given(values, values)
def test_values_are_not_expanded_again(own: dict[str, str], beneath: dict[str, str]) -> None:
    hidden = {name: f"$(A){value}" for name, value in beneath.items()}
    found = expand_variables({"X": "$(Y)"}, {**hidden, "Y": "$(A)$$(B)"}.get)
    assert found == {"X": "$(A)$$(B)"}
    assert expand_command(["$(X)"], found, own) == ["$(A)$$(B)"]


@given(st.permutations(["A", "B", "C", "D"]))
def test_variables_refer_to_each_other_in_any_order(order: list[str]) -> None:
    own = {"A": "1", "B": "$(A)2", "C": "$(B)3$(A)", "D": "$(C)$(HOME)"}
    found = expand_variables({name: own[name] for name in order}, {"HOME": "/h"}.get)
    assert found == {"A": "1", "B": "12", "C": "1231", "D": "1231/h"}


def test_a_variable_that_refers_to_itself_means_the_one_beneath_it() -> None:
    own = {"PATH": "/conda/bin:$(PATH)", "X": "$(PATH)"}
    found = expand_variables(own, {"PATH": "/bin"}.get)
    assert found == {"PATH": "/conda/bin:/bin", "X": "/conda/bin:/bin"}


def test_an_unknown_name_is_an_error_that_names_it() -> None:
    with pytest.raises(UnknownVariableError, match=r"variable NO: set it in `env`.*\$\$\(NO\)"):
        expand_command(["t", "$(NO)"], {}, ())
    with pytest.raises(UnknownVariableError, match="variable NO"):
        expand_variables({"A": "$(NO)"}, {}.get)


def test_in_a_script_only_what_the_job_knows_is_replaced() -> None:
    env = {"SPECTRAIN_JOB_ID": "j", "OWN": "o", "date": "of the worker"}
    script = "echo $(date) $(hostname) $(OWN) $(SPECTRAIN_JOB_ID) $$ $OWN"
    for shell in (["sh", "-c"], ["env", "X=1", "/bin/bash", "-euo", "pipefail", "-c"]):
        (*_, found) = expand_command([*shell, script], env, {"OWN"})
        assert found == "echo $(date) $(hostname) o j $$ $OWN"


SCRIPTS = [
    ["sh", "-c", "X"],
    ["bash", "-lc", "X"],
    ["/bin/bash", "-euo", "pipefail", "-c", "X", "$0"],
    ["bash", "--rcfile", "x", "-c", "X"],
    ["sh", "-c", "-e", "X"],
    ["timeout", "60", "bash", "-c", "X"],
    ["conda", "run", "-n", "env", "sh", "-c", "X"],
    ["python", "-u", "-X", "dev", "-c", "X"],
    ["perl", "-ne", "X"],
    ["su", "-", "user", "-c", "X"],
    ["ssh", "host", "X"],
    ["envsubst", "X"],
]


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_what_a_shell_expands_is_not_refused(command: list[str]) -> None:
    for text in ("ls $SPECTRAIN_RUN_DIR", 'ls "${SPECTRAIN_RUN_DIR}/x"', "$SPECTRAIN_X"):
        words = [text if word == "X" else word for word in command]
        assert submitted(command=words).command == words
        assert submitted(command=["t"], resume_command=words).resume_command == words


@pytest.mark.parametrize(
    "command",
    [
        ["python", "t.py", "--out", "X"],
        ["python", "t.py", "-c", "X"],
        ["bash", "run.sh", "X"],
        ["bash", "run.sh", "-c", "X"],
        ["sh", "-c", "echo $1", "sh", "X"],
        ["torchrun", "t.py", "--config=X/c.yaml"],
        ["X/run"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("plain", ["$SPECTRAIN_RUN_DIR", "${SPECTRAIN_RUN_DIR}"])
def test_what_no_shell_would_expand_is_refused_with_what_to_write(
    command: list[str], plain: str
) -> None:
    words = [word.replace("X", plain) for word in command]
    for fields in ({"command": words}, {"command": ["t"], "resume_command": words}):
        why = refusal(**fields)
        assert f"write $(SPECTRAIN_RUN_DIR) in place of {plain} in item " in why
        assert why.endswith("no shell expands it")


def test_it_is_refused_wherever_a_reference_may_stand() -> None:
    assert "write $(SPECTRAIN_RUN_DIR) in place of $SPECTRAIN_RUN_DIR in DIR" in refusal(
        command=["t"], env={"DIR": "$SPECTRAIN_RUN_DIR/x"}
    )
    assert "write $(SPECTRAIN_ATTEMPT) in place of $SPECTRAIN_ATEMPT in item 1" in refusal(
        command=["t"], resume_args=["--n", "$SPECTRAIN_ATEMPT"]
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ["t", "$(SPECTRAIN_RUNDIR)"]},
        {"command": ["t"], "resume_args": ["$(SPECTRAIN_RUNDIR)"]},
        {"command": ["sh", "-c", "x $(SPECTRAIN_RUNDIR)"]},
        {"command": ["t"], "env": {"A": "$(SPECTRAIN_RUNDIR)"}},
    ],
)
def test_a_name_that_cannot_be_one_is_refused_at_the_door(fields: dict[str, Any]) -> None:
    why = refusal(**fields)
    assert "write $(SPECTRAIN_RUN_DIR) in place of $(SPECTRAIN_RUNDIR)" in why
    assert "or $$(SPECTRAIN_RUNDIR) for the text" in why


@pytest.mark.parametrize(
    "word", ["$(HOME)", "$$(SPECTRAIN_RUNDIR)", "$(date +%s)", "$HOME", "$", "a$$", "$(", "$()"]
)
def test_other_texts_are_accepted(word: str) -> None:
    spec = submitted(command=["t", word], env={"A": word, "SPECTRAIN_DETERMINISTIC": "1"})
    assert spec.command == ["t", word]
    assert submitted(command=["t", "$(SPECTRAIN_DETERMINISTIC)"])


def test_variables_that_refer_to_each_other_in_a_circle_are_refused() -> None:
    why = refusal(command=["t"], env={"A": "$(B)", "B": "x$(C)", "C": "$(B)"})
    assert "B refers to C refers to B: give one of them a value of its own" in why


def test_values_do_not_grow_without_bound() -> None:
    env = {f"V{n}": f"$(V{n + 1})" * 2 for n in range(25)} | {"V25": "x"}
    assert f"longer than {LONGEST:,} characters" in refusal(command=["t"], env=env)
    with pytest.raises(ExpansionError, match="longer than"):
        expand("$(A)" * 20, lambda _: "x" * 8192)


def test_variables_refer_to_each_other_only_so_far() -> None:
    env = {f"V{n}": f"$(V{n + 1})" for n in range(255)}
    assert "V0 refers to more than 32 variables in a row" in refusal(command=["t"], env=env)


def test_a_record_of_an_earlier_version_is_still_read() -> None:
    spec = {"name": "a", "command": ["t", "$SPECTRAIN_RUN_DIR"], "env": {"A": "$SPECTRAIN_X"}}
    assert JobSpec.model_validate_json(json.dumps(spec)).command == spec["command"]
