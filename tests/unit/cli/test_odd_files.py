"""Files that are no jobs are refused in a sentence, whatever is in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from api.cli.main import cli

DIGITS = "9" * 5000
HEX = "0x" + "f" * 5000
DEEP = 3000
ODD = {
    "digits": f"name: a\ncommand: [t]\npriority: {DIGITS}",
    "hexadecimal": f"name: a\ncommand: [t]\npriority: {HEX}",
    "digits as a key": f"name: a\n{DIGITS}: b",
    "hexadecimal as a key": f"name: a\n{HEX}: b",
    "digits in a command": f"command: [!!int '{HEX}']",
    "digits in a name": f"name: !!int '{HEX}'\ncommand: [t]",
    "digits in the environment": f"name: a\ncommand: [t]\nenv: {{A: !!int '{HEX}'}}",
    "digits in JSON": f'{{"name": "a", "command": ["t"], "priority": {DIGITS}}}',
    "a large exponent": "name: a\ncommand: [t]\npriority: 1e999999",
    "deep lists": "name: a\nlabels: " + "[" * DEEP + "]" * DEEP,
    "deep block lists": "name: a\nlabels:\n" + "".join("  " * n + "-\n" for n in range(1, 500)),
    "deep mappings": "".join(" " * n + "a:\n" for n in range(1000)),
    "deep mappings in braces": "{a: " * DEEP + "1" + "}" * DEEP,
    "deep JSON": '{"a":' * 90 + "1" + "}" * 90,
    "deep keys": "? " * 2000 + "a",
    "anchors that grow": "a: &a [x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [*{chr(97 + n)},*{chr(97 + n)}]\n" for n in range(24)
    ),
    "mappings that grow": "a: &a {x: 1}\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} {{p: *{chr(97 + n)}, q: *{chr(97 + n)}}}\n"
        for n in range(24)
    ),
    "itself": "&a\nname: *a",
    "a set": "!!set {a, b}",
    "bytes": "name: !!binary aGVsbG8=\ncommand: [t]",
    "a date": "name: a\ncommand: [t]\nlabels: {a: !!timestamp 2024-01-01}",
    "nulls": "name: \0",
    "a lone surrogate": 'name: "\\ud800"\ncommand: [t]',
    "workspace": f"name: a\ncommand: [t]\nworkspace: {{path: {HEX}}}",
    "exclude": "name: a\ncommand: [t]\nworkspace: {path: ., exclude: 3}",
}  # fmt: skip


def refused(text: bytes, *words: str) -> str:
    done = CliRunner().invoke(cli, ["--timeout", "0", "submit", *words], input=text)
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code in {1, 2}
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    "dry", [["-"], ["-", "--dry-run"], ["--from", "-"], ["-", "--", "t"]], ids=str
)
@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_a_sentence(
    name: str, dry: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPECTRAIN_URL", "http://127.0.0.1:1")
    said = refused(ODD[name].encode(), *dry)
    assert len(said) < 20_000


@settings(max_examples=150)
@given(st.text(alphabet="{}[]:,-&*!?|>'\"\n #%@`abc019.~<=\t\0", max_size=60))
def test_no_text_ends_in_a_traceback(text: str) -> None:
    refused(text.encode(), "-", "--dry-run")


@pytest.mark.parametrize("value", [HEX, "[" * 5000, "{", "\x1b[2J", "&a [*a]"], ids=range(5))
def test_odd_values_of_set_are_sentences(value: str) -> None:
    words = ["--url", "http://127.0.0.1:1", "--timeout", "0", "fork", "a-23456789"]
    done = CliRunner().invoke(cli, [*words, "--set", f"train.steps={value}"])
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert done.exit_code == 1
    assert "\x1b" not in done.stderr
