"""The help of the command line, as a terminal of 80 columns shows it."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from api.cli.main import cli


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command, the groups among them."""
    yield words
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*words, name))


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_help_cuts_nothing_and_fits_80_columns(words: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80).output
    usage, _, rest = shown.partition("\n\n")
    assert usage.startswith("Usage: ")
    assert "...\n" not in rest, "a summary is cut"
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("words", list(commands(cli)), ids=" ".join)
def test_each_option_and_argument_says_what_it_does(words: tuple[str, ...]) -> None:
    command: click.Command = cli
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    assert command.help
    assert [one.name for one in command.params if not getattr(one, "help", None)] == []
