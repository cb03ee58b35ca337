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
        (b"name: a\n---\nname: b", "line 2, column 1: but found another document"),
        (b"name: a\ntrain: {optimizer: {lr: .inf}}", "train.optimizer.lr: given Infinity"),
        (b"!!python/object:os.system x", "no valid YAML or JSON: "),
    ],
)
def test_what_is_no_specification_is_refused_in_words(text: bytes, says: str) -> None:
    with pytest.raises(SpecFileError) as caught:
        read_spec(text)
    assert says in str(caught.value)
