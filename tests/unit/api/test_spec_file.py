"""Specifications in files."""

from __future__ import annotations

import pytest

from api.cli.spec_file import SpecFileError, read_spec


def test_yaml_means_what_it_looks_like() -> None:
    spec = read_spec(
        b"name: wave\n"
        b"train: {optimizer: {lr: 1e-3, betas: [.9, 0.95]}, steps: 10}\n"
        b"labels: {keep: no, time: 12:30, day: 2024-01-01}\n"
        b"limits: {run_seconds: ~, stop_on_nan: false}\n"
    )
    assert spec.train is not None
    assert spec.train.optimizer.lr == 1e-3
    assert spec.train.optimizer.betas == (0.9, 0.95)
    assert spec.labels == {"keep": "no", "time": "12:30", "day": "2024-01-01"}
    assert spec.limits.run_seconds is None


WRITTEN = ["1", "-1", "08", "0.10", "1e-3", "1E5", ".5", "1_000", "0x1F", "0o17", "true", "False",
           "yes", "12:30", "2024-01-01", ".nan"]  # fmt: skip


def test_words_of_a_program_stay_as_they_are_written() -> None:
    words = ", ".join(WRITTEN)
    variables = "".join(f"  V{n}: {text}\n" for n, text in enumerate(WRITTEN))
    spec = read_spec(f"name: a\ncommand: [t, {words}]\nenv:\n{variables}".encode())
    assert spec.command == ["t", *WRITTEN]
    assert list(spec.env.values()) == WRITTEN
    assert read_spec(b'{"name": "a", "command": ["t", 1e-3, 0.10]}').command == [
        "t",
        "1e-3",
        "0.10",
    ]


@pytest.mark.parametrize("merged", ["*usual", "[*usual]"])
def test_numbers_elsewhere_are_numbers_whatever_refers_to_them(merged: str) -> None:
    text = f"""
<<: {merged.replace("*usual", "&usual {env: {<<: {B: 0.50}, A: &n 05}}")}
name: a
priority: *n
command: [t, *n, "7", !!str 08]
"""
    spec = read_spec(text.encode())
    assert spec.priority == 5
    assert spec.command == ["t", "05", "7", "08"]
    assert spec.env == {"A": "05", "B": "0.50"}


def test_json_is_read_too() -> None:
    assert read_spec(b'{"name": "j", "command": ["true"]}').command == ["true"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"name: [", "line 1"),
        (b"\xff\xfe\xff", "no valid YAML or JSON: "),
        (b"name: a\nname: b\ntrain: {}", 'line 2, column 1: found duplicate key "name"'),
        (b'{"name": "a", "env": {"A": "1", "A": "2"}}', 'found duplicate key "A"'),
        (b"", "(top level): given null, allowed: an object"),
        (
            b"name: a\ntrain: {steps: -1}",
            "train.steps: given -1, allowed: greater than or equal to 1",
        ),
        (b"&a [*a]", "no specification"),
        (b"? [a, b]\n: 1", "no specification"),
        (b"!!set {a}", "no specification"),
        (b"[" * 101 + b"]" * 101, "nested too deeply"),
        (b"- " * 10_000, "nested too deeply"),
        (b"name: a\n---\nname: b", "It holds several documents: give each job a file"),
        (b"name: a\ntrain: {optimizer: {lr: .inf}}", "train.optimizer.lr: given Infinity"),
        (b"name: a\ncommand: python t.py --lr 1", 'each word: ["python", "t.py", "--lr", "1"]'),
        (b"name: a\ncommand: [python t.py]", 'each word: ["python", "t.py"]'),
        (b"name: a\ncommand: [t, ~]", "command[1]: given null"),
        (b"&a {<<: *a}", "nested too deeply"),
        (b"!!python/object:os.system x", "no valid YAML or JSON: "),
    ],
)
def test_what_is_no_specification_is_refused_in_words(text: bytes, says: str) -> None:
    with pytest.raises(SpecFileError) as caught:
        read_spec(text)
    assert says in str(caught.value)
